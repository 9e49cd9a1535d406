//! The page in Chromium, with made-up sources: what it shows, wide and narrow, light and dark. Driven over a pipe by the DevTools protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use destguard::config::schema::{Hide, Http};
use destguard::control::history::{Plots, Reading};
use destguard::control::query_log::{Entry, Fate};
use destguard::control::sources::{CoreView, Later, Sources, Subject};
use destguard::control::types::{Judgement, Scheduled, Upstream};
use destguard::control::{Access, DeniedKind, DeniedLog, QueryLog, serve_tcp};
use destguard::core::counts::{Counts, RefusedCounts};
use destguard::core::event::RevokeTarget;
use destguard::core::explain::{EnforcerView, Explanation, LeaseFilter, LeaseState, LeaseView};
use destguard::core::name::Name;
use destguard::core::policy::view::Whose;
use destguard::core::proof::EnforcerState;
use destguard::core_task::Stopped;
use serde_json::{Value, json};

const LEASES: u32 = 10_000;
const PATIENCE: Duration = Duration::from_secs(60);

struct Fake {
    denied: DeniedLog,
    log: QueryLog,
    plots: Plots,
    access: Access,
}

fn ready<'a, T: Send + 'a>(value: T) -> Later<'a, T> {
    Box::pin(std::future::ready(value))
}

impl CoreView for Fake {
    fn leases(&self, _: LeaseFilter, after: Option<IpAddr>, most: usize) -> Later<'_, Result<Vec<LeaseView>, Stopped>> {
        let base = u32::from(Ipv4Addr::new(203, 0, 0, 0));
        let from = match after {
            Some(IpAddr::V4(after)) => u32::from(after) - base + 1,
            _ => 0,
        };
        let lease = |nth: u32| LeaseView {
            address: Ipv4Addr::from(base + nth).into(),
            state: LeaseState::Installed,
            ends_in_seconds: 250,
            names: vec![format!("host{nth}.example.test")],
            clients: vec![IpAddr::from([192, 0, 2, 7])],
            ports: Vec::new(),
            applications: Vec::new(),
            groups: Vec::new(),
            enforcers: BTreeMap::from([("nftables".to_owned(), "open".to_owned())]),
        };
        ready(Ok((from..LEASES).take(most).map(lease).collect()))
    }

    fn explain(&self, _: IpAddr) -> Later<'_, Result<Option<Explanation>, Stopped>> {
        ready(Ok(None))
    }

    fn explain_name(&self, _: Name, _: usize) -> Later<'_, Result<Vec<Explanation>, Stopped>> {
        ready(Ok(Vec::new()))
    }

    fn overview(&self) -> Later<'_, Result<(Counts, Vec<EnforcerView>), Stopped>> {
        let counts = Counts {
            ipv4: LEASES as usize,
            capacity: 100_000,
            released: 12_345,
            refused: RefusedCounts::default(),
            ..Counts::default()
        };
        let enforcer = EnforcerView {
            would_announce: None,
            name: "nftables".to_owned(),
            required: true,
            state: EnforcerState::Lost,
            since_seconds: 11_520,
            acknowledged: Some(9),
            behind: false,
            behind_seconds: 0,
            budget_used: None,
            installed: LEASES as usize,
            max_addresses: 100_000,
            last_error: Some("<img src=x onerror=alert(1)>".to_owned()),
            repairs: BTreeMap::new(),
        };
        ready(Ok((counts, vec![enforcer])))
    }

    fn revoke(&self, _: RevokeTarget) -> Later<'_, Result<(), Stopped>> {
        ready(Ok(()))
    }
}

impl Sources for Fake {
    fn core(&self) -> &dyn CoreView {
        self
    }

    fn denied(&self) -> &DeniedLog {
        &self.denied
    }

    fn query_log(&self) -> (QueryLog, Vec<Hide>) {
        (self.log.clone(), Vec::new())
    }

    fn plots(&self) -> Plots {
        self.plots.clone()
    }

    fn access(&self) -> Access {
        self.access.clone()
    }

    fn in_hours(&self) -> Vec<Scheduled> {
        let until = Some("Mon 2026-11-30 13:00 CET".to_owned());
        vec![Scheduled { key: "policy.group[0]".to_owned(), what: "group <b>school</b>".to_owned(), until }]
    }

    fn out_of_hours(&self) -> Vec<Scheduled> {
        vec![Scheduled { key: "policy.list[2]".to_owned(), what: "list night".to_owned(), until: None }]
    }

    fn upstreams(&self) -> Vec<Upstream> {
        let state = "healthy".to_owned();
        vec![Upstream { url: "udp://192.0.2.53:53".to_owned(), healthy: true, state, asked: 10, ..Upstream::default() }]
    }

    fn judge(&self, subject: &Subject, _: Whose<'_>, _: &[(Name, Vec<Name>)]) -> Judgement {
        let denied = matches!(subject, Subject::Name(name) if name.to_string() == "bad.test");
        Judgement {
            verdict: if denied { "denied" } else { "allowed" }.to_owned(),
            reason: if denied { "the question gets NXDOMAIN" } else { "no rule denies it" }.to_owned(),
            rule: denied.then(|| "policy.deny[0]".to_owned()),
            place: denied.then(|| "destguard.toml:12".to_owned()),
        }
    }
}

impl Fake {
    fn asked(&self, name: &str) {
        let name: Name = name.parse().unwrap();
        self.log.record(Entry {
            person: None,
            time: u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap(),
            client: IpAddr::from([192, 0, 2, 7]),
            over: "udp",
            name: name.wire().iter().copied().collect(),
            qtype: 1,
            rcode: 0,
            fate: Fate::Released,
            audit: false,
            why: None,
            took: 1_700,
            addresses: Default::default(),
        });
    }
}

struct World {
    _runtime: tokio::runtime::Runtime,
    fake: Arc<Fake>,
    at: SocketAddr,
    scheme: &'static str,
}

fn world() -> World {
    world_of("127.0.0.1", &Http::default())
}

/// Served at this address, as the configuration says.
fn world_of(address: &str, http: &Http) -> World {
    let fake = Arc::new(Fake {
        denied: DeniedLog::default(),
        log: QueryLog::default(),
        plots: Plots::default(),
        access: Access::default(),
    });
    fake.log.keep(1_000);
    for minute in 0..=60_u64 {
        let wave = (minute % 12) * 9 + 40;
        let gate = vec![(500, minute * 50), (2_500, minute * 60 + wave / 9), (u64::MAX, minute * 60 + wave / 9)];
        let questions = minute * 70 + wave;
        fake.plots.take(minute * 60, Reading { questions, refused: minute * 3 + wave / 20, leases: wave * 80, gate });
    }
    fake.denied.record(DeniedKind::Name, "bad.test", Some(IpAddr::from([192, 0, 2, 7])), "policy.deny[0]");
    for what in ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "evil\u{202e}gpj.test"] {
        fake.denied.record(DeniedKind::Name, what, Some(IpAddr::from([192, 0, 2, 8])), "policy");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = std::net::TcpListener::bind((address, 0)).unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    {
        let _inside = runtime.enter();
        fake.access.switch(fake.access.prepare(http).unwrap());
    }
    listener.set_nonblocking(true).unwrap();
    let sources = Arc::clone(&fake) as Arc<dyn Sources>;
    runtime.spawn(async move { serve_tcp(tokio::net::TcpListener::from_std(listener).unwrap(), sources).await });
    let scheme = if http.certificate.is_some() { "https" } else { "http" };
    World { _runtime: runtime, fake, at, scheme }
}

/// A browser, ended with this.
struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    _home: tempfile::TempDir,
    session: String,
    number: u64,
    /// What happened of its own accord.
    events: Vec<Value>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Browser {
    fn open(world: &World, width: u32, height: u32, dark: bool) -> Self {
        let mut browser = Self::start(width, height, dark);
        browser.shows(&format!("http://{}/", world.at));
        browser
    }

    /// Goes there, and waits until the page has all.
    fn shows(&mut self, url: &str) {
        self.goes(url);
        self.until("document.querySelectorAll('#leases tbody tr').length === 100 && !!document.querySelector('#denied tbody tr')");
    }

    fn goes(&mut self, url: &str) {
        self.tell("Page.navigate", json!({ "url": url }));
        self.until("document.readyState === 'complete'");
    }

    /// A key of the keyboard.
    fn key(&mut self, key: &str, code: i32, text: &str) {
        let what = |kind| json!({"type": kind, "key": key, "code": if key == " " { "Space" } else { key }, "text": text, "windowsVirtualKeyCode": code});
        self.tell("Input.dispatchKeyEvent", what(if text.is_empty() { "rawKeyDown" } else { "keyDown" }));
        self.tell("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code}));
    }

    /// With the names of attackers leading to this host, and any certificate believed.
    fn start(width: u32, height: u32, dark: bool) -> Self {
        let home = tempfile::tempdir().unwrap();
        // The protocol's descriptors are 3 and 4.
        let words = "exec chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-proxy-server \
                     --no-first-run --disable-background-networking --ignore-certificate-errors \
                     --host-resolver-rules='MAP *.test 127.0.0.1, MAP guard.example 127.0.0.1' --user-data-dir=\"$0\" --remote-debugging-pipe \
                     about:blank 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null";
        let mut child = Command::new("sh")
            .args(["-c", words])
            .arg(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut browser = Self { child, to, from, _home: home, session: String::new(), number: 0, events: Vec::new() };
        let target = browser.tell("Target.createTarget", json!({"url": "about:blank"}));
        let attached = browser.tell("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.tell(&format!("{domain}.enable"), json!({}));
        }
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        browser.tell("Emulation.setDeviceMetricsOverride", size);
        let looks = json!([{"name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" }}]);
        browser.tell("Emulation.setEmulatedMedia", json!({ "features": looks }));
        browser
    }

    fn tell(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        write!(self.to, "{message}\0").unwrap();
        loop {
            let mut octets = Vec::new();
            self.from.read_until(0, &mut octets).unwrap();
            assert_eq!(octets.pop(), Some(0), "{method}: the browser is gone");
            let said: Value = serde_json::from_slice(&octets).unwrap();
            if said["id"] == self.number {
                assert!(said.get("error").is_none(), "{method}: {said}");
                return said["result"].clone();
            }
            self.events.push(said);
        }
    }

    fn eval(&mut self, script: &str) -> Value {
        let said =
            self.tell("Runtime.evaluate", json!({"expression": script, "returnByValue": true, "awaitPromise": true}));
        assert!(said.get("exceptionDetails").is_none(), "{script}: {said}");
        said["result"]["value"].clone()
    }

    fn until(&mut self, script: &str) {
        let began = Instant::now();
        while self.eval(script) != json!(true) {
            let text = if began.elapsed() > PATIENCE { self.eval("document.body.innerText") } else { Value::Null };
            assert!(text.is_null(), "{script} doesn't come true: {text}\n{:?}", self.events.last());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Where `PAGE_PICTURES` names a directory, a picture of what is seen.
    fn picture(&mut self, name: &str) {
        let Some(directory) = std::env::var_os("PAGE_PICTURES") else { return };
        let data = self.tell("Page.captureScreenshot", json!({"format": "png"}));
        let path = std::path::Path::new(&directory).join(format!("page-{name}.png"));
        let mut decoder = Command::new("base64")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(path).unwrap())
            .spawn()
            .unwrap();
        decoder.stdin.take().unwrap().write_all(data["data"].as_str().unwrap().as_bytes()).unwrap();
        assert!(decoder.wait().unwrap().success());
    }

    /// Nothing was complained of, and nobody else was asked.
    fn is_clean(&mut self, world: &World) {
        self.eval("1");
        for event in &self.events {
            let method = event["method"].as_str().unwrap_or_default();
            let level = &event["params"]["entry"]["level"];
            assert!(method != "Log.entryAdded" || level != "error", "{event}");
            assert!(method != "Runtime.exceptionThrown" && method != "Page.javascriptDialogOpening", "{event}");
            if method == "Network.requestWillBeSent" {
                let url =
                    event["params"]["request"]["url"].as_str().unwrap().replace("any:a-token-that-nobody-guesses@", "");
                assert!(url.starts_with(&format!("{}://{}/", world.scheme, world.at)) || url == "about:blank", "{url}");
            }
        }
    }
}

/// The least contrast of any text with what stands behind it (WCAG 2.2, 1.4.3), and where it is.
const CONTRAST: &str = r"(() => {
  const parse = (text) => { const n = text.match(/[\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
  let least = [99, ''];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility() || e.closest('.new')) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color).slice(0, 3)), light(behind(e).slice(0, 3))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < least[0]) least = [ratio, `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`];
  }
  return least; })()";

fn contrast(browser: &mut Browser) {
    let least = browser.eval(CONTRAST);
    assert!(least[0].as_f64().unwrap() >= 4.5, "{least}");
}

#[test]
fn on_a_wall_it_says_why_explains_filters_pages_and_follows() {
    let world = world();
    world.fake.asked("top.example.test");
    let mut page = Browser::open(&world, 1440, 1100, false);
    page.until("document.querySelector('#state').textContent.includes('degraded')");
    page.until(
        "document.querySelector('#reasons').textContent.includes('Nftables is lost: <img src=x onerror=alert(1)>')",
    );
    page.until("document.querySelectorAll('#plots path').length >= 5");
    // What has hours.
    let hours =
        page.eval("[...document.querySelectorAll('#hours tbody tr')].map((tr) => tr.innerText.replace(/\\s+/g, ' '))");
    let expected = [
        "group <b>school</b> ● in force Mon 2026-11-30 13:00 CET policy.group[0]",
        "list night ◆ out of its hours for ever policy.list[2]",
    ];
    assert_eq!(hours, json!(expected));
    page.until("!document.querySelector('#top').hidden && document.querySelector('#top-clients').textContent.includes('192.0.2.7')");
    // Names that would be markup, or turn what stands beside them, are text.
    let denied = page.eval("document.querySelector('#denied').textContent");
    for text in ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "evil\\u{202e}gpj.test"] {
        assert!(denied.as_str().unwrap().contains(text), "{text}: {denied}");
    }
    assert_eq!(page.eval("document.querySelectorAll('img, main script').length"), 0);
    assert_eq!(
        page.eval("document.querySelectorAll('#denied [data-command]').length"),
        1,
        "hostile names have no command"
    );
    assert_eq!(
        page.eval("[...document.querySelectorAll('th')].every((th) => th.scope === 'col' && th.closest('thead'))"),
        true
    );
    // Explain, by keyboard: the field has the focus by the link at the top, and Enter sends.
    page.eval("document.querySelector('#of').focus()");
    page.tell("Input.insertText", json!({"text": "bad.test"}));
    for kind in ["keyDown", "keyUp"] {
        page.tell("Input.dispatchKeyEvent", json!({"type": kind, "key": "Enter", "code": "Enter", "text": if kind == "keyDown" { "\r" } else { "" }, "windowsVirtualKeyCode": 13}));
    }
    page.until("document.querySelector('#verdict').textContent.includes('Rule: policy.deny[0], destguard.toml:12.')");
    page.until("document.querySelector('#verdict code').textContent === 'destguard allow bad.test --for 1h'");
    // Live.
    page.until("document.querySelector('#log-note').textContent === '' && !!document.querySelector('#log tbody')");
    world.fake.asked("live.example.test");
    page.until("document.querySelector('#log').textContent.includes('live.example.test')");
    contrast(&mut page);
    page.picture("wall");
    // Filters.
    page.eval("{ const f = document.querySelector('#denied-text'); f.value = 'script'; f.dispatchEvent(new Event('input', { bubbles: true })) }");
    page.until("document.querySelectorAll('#denied tbody tr').length === 1");
    page.eval("{ const f = document.querySelector('#log-name'); f.value = 'other.test'; f.dispatchEvent(new Event('input', { bubbles: true })) }");
    page.until("!document.querySelector('#log').textContent.includes('live.example.test')");
    world.fake.asked("unseen.example.test");
    world.fake.asked("www.other.test");
    page.until("document.querySelector('#log').textContent.includes('www.other.test')");
    assert_eq!(page.eval("document.querySelector('#log').textContent.includes('unseen')"), false);
    // Ten thousand leases, page by page.
    for nth in 1..100 {
        page.eval("document.querySelector('#leases-next').click()");
        page.until(&format!(
            "document.querySelector('#leases').textContent.includes('host{}.example.test')",
            nth * 100 + 99
        ));
    }
    page.eval("document.querySelector('#leases-back').click()");
    page.until("document.querySelector('#leases').textContent.includes('host9800.example.test')");
    page.is_clean(&world);
}

#[test]
fn an_answer_that_a_later_one_has_overtaken_is_not_shown() {
    let world = world();
    let mut page = Browser::open(&world, 1600, 1000, false);
    let shows =
        |host: u32| format!("document.querySelector('#leases').textContent.includes('host{host}.example.test')");
    page.until(&shows(99));
    // The next answer with leases, of the round that comes by itself, is kept back.
    page.eval(
        "{ const real = window.fetch; window.fetch = async (...asked) => { const reply = await real(...asked); \
         if (window.release || !String(asked[0]).includes('/leases')) return reply; const body = await reply.json(); \
         await new Promise((go) => { window.release = go; }); return { ok: true, json: async () => body }; } }",
    );
    page.until("!!window.release");
    page.eval("document.querySelector('#leases-next').click()");
    page.until(&shows(199));
    page.eval("window.release(); new Promise((seen) => setTimeout(seen))");
    page.eval("document.querySelector('#leases-next').click()");
    page.until(&shows(299));
    page.is_clean(&world);
}

#[test]
fn on_a_phone_nothing_is_wider_than_the_screen() {
    let world = world();
    let mut page = Browser::open(&world, 390, 844, false);
    world.fake.asked("a-rather-long-label-of-a-name-as-they-are.of-some-provider.cdn.example.test");
    page.until("document.querySelector('#log').textContent.includes('provider')");
    assert_eq!(
        page.eval("document.documentElement.scrollWidth <= 390"),
        true,
        "{}",
        page.eval("document.documentElement.scrollWidth")
    );
    assert_eq!(page.eval("getComputedStyle(document.querySelector('#leases tbody tr')).display"), "block");
    contrast(&mut page);
    page.picture("phone");
    page.is_clean(&world);
}

#[test]
fn in_the_dark_all_can_be_read() {
    let world = world();
    let mut page = Browser::open(&world, 1440, 1100, true);
    page.until("document.querySelectorAll('#plots path').length >= 5");
    world.fake.asked("dark.example.test");
    page.until("document.querySelector('#log').textContent.includes('dark.example.test')");
    contrast(&mut page);
    page.picture("dark");
    page.is_clean(&world);
}

#[test]
fn all_of_it_can_be_reached_and_used_by_keyboard() {
    let world = world();
    let mut page = Browser::open(&world, 1440, 1100, false);
    page.until("document.querySelector('#reasons').children.length > 0 && document.querySelectorAll('#plots path').length >= 5");
    // The first key shows the link that leads past all to the box.
    page.key("Tab", 9, "");
    assert_eq!(page.eval("document.activeElement.className"), "skip");
    assert_eq!(page.eval("document.activeElement.getBoundingClientRect().left >= 0"), true, "it is seen");
    page.key("Enter", 13, "\r");
    page.until("document.activeElement.id === 'of'");
    page.tell("Input.insertText", json!({"text": "bad.test"}));
    page.key("Enter", 13, "\r");
    page.until("document.querySelector('#verdict').textContent.includes('Rule: policy.deny[0]')");
    // All that can be used comes once, in order, is in view and is seen to have the focus.
    page.eval("document.activeElement.blur(); document.querySelector('.skip').focus(); window.all = [...document.querySelectorAll(
        'a[href], button, input, select, [tabindex=\"0\"]')].filter((e) => !e.disabled && e.checkVisibility()); 1");
    let all = page.eval("all.length").as_u64().unwrap();
    assert!(all >= 20, "{all}");
    let look = "(() => { const e = document.activeElement, r = e.getBoundingClientRect(), s = getComputedStyle(e); \
                return [all.indexOf(e), r.bottom > 0 && r.top < innerHeight && r.right > 0 && r.left < innerWidth, \
                e.matches(':focus-visible') && s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2, e.id || e.textContent.slice(0, 40)]; })()";
    for nth in 1..all {
        page.key("Tab", 9, "");
        let seen = page.eval(look);
        assert_eq!((&seen[0], &seen[1], &seen[2]), (&json!(nth), &json!(true), &json!(true)), "{seen}");
    }
    page.key("Tab", 9, "");
    assert!(page.eval("all.indexOf(document.activeElement)").as_i64().unwrap() <= 0, "and the way out is no trap");
    // Back, to switch and buttons.
    page.eval("document.querySelector('#hour').focus()");
    page.key("Tab", 9, "");
    page.key(" ", 32, " ");
    page.until("document.querySelector('#day').getAttribute('aria-pressed') === 'true'");
    page.eval("document.querySelector('#denied [data-command]').focus()");
    page.key("Enter", 13, "\r");
    page.until("document.querySelector('#said').textContent.includes('destguard allow bad.test --for 1h')");
    page.eval(
        "document.querySelector('#leases-first, #leases-next').focus(); document.querySelector('#leases-next').focus()",
    );
    page.key("Enter", 13, "\r");
    page.until("document.querySelector('#leases').textContent.includes('host199.example.test')");
    assert_eq!(page.eval("document.activeElement.id"), "leases-next", "the focus stays where it was");
    // A name for whatever can have the focus.
    let nameless = page.eval("[...document.querySelectorAll('button, input, select, a[href], [tabindex]')].filter((e) => \
        !(e.textContent.trim() || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.labels?.length)).map((e) => e.outerHTML)");
    assert_eq!(nameless, json!([]));
    page.is_clean(&world);
}

#[test]
fn a_site_whose_name_leads_to_the_guard_learns_nothing() {
    let names = vec!["guard.example".to_owned()];
    let world = world_of("127.0.0.1", &Http { names, ..Http::default() });
    let port = world.at.port();
    let mut page = Browser::start(1440, 1100, false);
    page.goes(&format!("http://evil.test:{port}/"));
    let text = page.eval("document.body.innerText");
    assert!(text.as_str().unwrap().contains("the guard isn't known by this name"), "{text}");
    let status = "fetch('/api/v1/status').then((reply) => reply.status)";
    assert_eq!(page.eval(status), 421);
    // Under another name it can ask, and the browser doesn't say what.
    assert_eq!(
        page.eval(&format!("fetch('http://127.0.0.1:{port}/api/v1/status').then(() => 'read', () => 'kept')")),
        "kept"
    );
    page.shows(&format!("http://guard.example:{port}/"));
    assert_eq!(page.eval(status), 200);
}

#[test]
fn under_tls_with_a_token_all_is_seen_from_afar() {
    let directory = tempfile::tempdir().unwrap();
    let [certificate, key, token] = ["pem", "key", "token"].map(|name| directory.path().join(name));
    let pair = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new(vec!["guard.example".to_owned()]).unwrap().self_signed(&pair).unwrap();
    std::fs::write(&certificate, made.pem()).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    std::fs::write(&token, "a-token-that-nobody-guesses\n").unwrap();
    let token_file = Some(token);

    // In plain text the log isn't told.
    let plain = world_of("0.0.0.0", &Http { token_file: token_file.clone(), ..Http::default() });
    let mut page = Browser::start(1440, 1100, false);
    page.goes(&format!("http://{}/", plain.at));
    // A browser without a screen can't ask for it.
    assert_eq!(page.eval("document.querySelector('#state')"), Value::Null);
    page.shows(&format!("http://any:a-token-that-nobody-guesses@{}/", plain.at));
    page.until("document.querySelector('#log-note').textContent.includes('under TLS with a token')");
    page.until("document.querySelector('#top').hidden");

    let (certificate, key) = (Some(certificate), Some(key));
    let world = world_of("0.0.0.0", &Http { certificate, key, token_file, ..Http::default() });
    let mut page = Browser::start(1440, 1100, false);
    page.shows(&format!("https://any:a-token-that-nobody-guesses@{}/", world.at));
    page.until("document.querySelector('#log-note').textContent === '' && !!document.querySelector('#log tbody')");
    world.fake.asked("afar.example.test");
    page.until("document.querySelector('#log').textContent.includes('afar.example.test')");
    page.until("!document.querySelector('#top').hidden");
    page.is_clean(&world);
}
