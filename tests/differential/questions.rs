//! The questions: every kind of name with every form of question, drawn with a fixed seed.

use super::script::{BAD, DATA, FILTERED, GOOD, name};

/// How long the reply may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// An answer of an upstream that answers.
    Answer,
    /// An upstream that doesn't, or not usefully.
    Slow,
    /// No upstream is needed; a reply to a question behind it shows that none will come.
    AtOnce,
}

#[derive(Clone, Debug)]
pub struct Question {
    /// What the upstream does.
    pub kind: &'static str,
    /// What is unusual in how it is asked; "plain" mostly.
    pub form: &'static str,
    pub octets: Vec<u8>,
    pub tcp: bool,
    pub wait: Wait,
    /// For the report.
    pub text: String,
}

/// What a message is made of before it is broken.
struct Draft {
    flags: u16,
    name: Vec<u8>,
    qtype: u16,
    class: u16,
    /// Size, version, DO and options of OPT.
    edns: Option<(u16, u8, bool, Vec<u8>)>,
}

impl Draft {
    fn encode(&self, id: u16) -> Vec<u8> {
        let mut out = Vec::new();
        for word in [id, self.flags, 1, 0, 0, u16::from(self.edns.is_some())] {
            out.extend(word.to_be_bytes());
        }
        out.extend(&self.name);
        out.extend(self.qtype.to_be_bytes());
        out.extend(self.class.to_be_bytes());
        if let Some((size, version, dnssec_ok, options)) = &self.edns {
            out.extend([0, 0, 41]);
            out.extend(size.to_be_bytes());
            out.extend([0, *version, if *dnssec_ok { 0x80 } else { 0 }, 0]);
            out.extend((options.len() as u16).to_be_bytes());
            out.extend(options);
        }
        out
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        (super::random(&mut self.0) % end as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

const RD: u16 = 0x100;
/// Each unusual form of a question gets one share, the usual ones get as many as all of these.
const FORMS: &[&str] = &[
    "any",
    "axfr",
    "ixfr",
    "type0",
    "optquestion",
    "tsigtype",
    "meta",
    "chaos",
    "chaosid",
    "hesiod",
    "anyclass",
    "noneclass",
    "nord",
    "nordcached",
    "cd",
    "ad",
    "adcd",
    "z",
    "tcset",
    "aaset",
    "raset",
    "opcode",
    "noedns",
    "size0",
    "size512",
    "size4096",
    "size65535",
    "version1",
    "version255",
    "unknownoption",
    "subnet",
    "cookie",
    "padding",
    "nsid",
    "badoption",
    "twoopts",
    "optowner",
    "optinanswer",
    "noquestion",
    "twoquestions",
    "answerinquestion",
    "trailing",
    "short",
    "cutname",
    "longlabel",
    "pointername",
    "longname",
    "toolongname",
    "response",
    "empty",
    "upper",
    "mixedcase",
    "case",
    "root",
    "toplevel",
    "deep",
    "binarylabel",
    "tsigrecord",
    "badcookie",
    "reservedflags",
    "countlies",
];

/// Draws `count` questions from the seed.
pub fn draw(seed: u64, count: usize) -> Vec<Question> {
    let mut dice = Dice(seed);
    let mut all: Vec<Question> = Vec::with_capacity(count);
    // Those that take seconds: each kind some times.
    let slow = count / 80;
    for nth in 0..count {
        let id = nth as u16;
        all.push(if nth < slow {
            let kind = BAD[nth % BAD.len()];
            plain(&mut dice, id, kind, Wait::Slow)
        } else if dice.chance(5) {
            unusual(&mut dice, id)
        } else {
            let kind = if dice.chance(30) { dice.one(FILTERED) } else { dice.one(GOOD) };
            plain(&mut dice, id, kind, Wait::Answer)
        });
    }
    all
}

fn plain(dice: &mut Dice, id: u16, kind: &'static str, wait: Wait) -> Question {
    let number = dice.below(40);
    let qtype = match kind {
        "data" | "packed" => dice.one(DATA),
        "https" | "svcb" | "httpsalias" | "privatehint" | "badservice" => dice.one(&[65, 65, 65, 64, 1]),
        "wildtype" => dice.one(&[65_280, 65_300, 999, 262, 32_768, 11]),
        "badaddress" | "pointer" | "overrun" | "counts" | "half" | "garbage" => 1,
        _ => dice.one(&[1, 1, 1, 1, 28, 28, 28, 16, 65, 15, 5]),
    };
    let front = match kind {
        "dname" | "dnamecut" | "dnamelong" if !dice.chance(5) => dice.one(&["www.", "a.b.", "mail."]),
        "loop" => dice.one(&["", "back."]),
        _ if dice.chance(20) && wait == Wait::Answer => dice.one(&["www.", "x.y.z."]),
        _ => "",
    };
    // The deeper labels of a DNAME's target would be another story.
    let front = if kind.starts_with("dname") && front == "a.b." { "www." } else { front };
    let edns = match dice.below(4) {
        0 => None,
        1 => Some((4096, 0, false, vec![])),
        2 => Some((1232, 0, true, vec![])),
        _ => Some((1232, 0, false, vec![])),
    };
    let text = format!("{front}{number}.{kind}.example");
    let draft = Draft { flags: RD, name: name(&text), qtype, class: 1, edns };
    let tcp = dice.chance(20) || kind.starts_with("big9");
    Question { kind, form: "plain", octets: draft.encode(id), tcp, wait, text: format!("{text} TYPE{qtype}") }
}

/// A question whose name is in every cache, so that only its form counts.
fn unusual(dice: &mut Dice, id: u16) -> Question {
    let form = dice.one(FORMS);
    let number = dice.below(20);
    let mut text = format!("{number}.plain.example");
    let mut kind = "plain";
    let mut draft = Draft { flags: RD, name: name(&text), qtype: 1, class: 1, edns: Some((1232, 0, false, vec![])) };
    let mut wait = Wait::Answer;
    let mut tcp = dice.chance(20);
    let option =
        |code: u16, value: &[u8]| [&code.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat();
    match form {
        "any" => draft.qtype = 255,
        // Over TCP, as zone transfers are.
        "axfr" => (draft.qtype, tcp) = (252, true),
        "ixfr" => draft.qtype = 251,
        "type0" => draft.qtype = 0,
        "optquestion" => draft.qtype = 41,
        "tsigtype" => draft.qtype = dice.one(&[249, 250]),
        "meta" => draft.qtype = dice.one(&[128, 200, 253, 254]),
        "chaos" => {
            (draft.name, draft.qtype, draft.class) = (name(dice.one(&["version.bind", "version.server"])), 16, 3)
        }
        "chaosid" => (draft.name, draft.qtype, draft.class) = (name(dice.one(&["id.server", "hostname.bind"])), 16, 3),
        "hesiod" => draft.class = dice.one(&[4, 3, 2, 0, 65_280]),
        "anyclass" => draft.class = 255,
        "noneclass" => draft.class = 254,
        "nord" => {
            draft.flags = 0;
            text = format!("{number}.norecursion.v4only.example");
            draft.name = name(&text);
        }
        "nordcached" => draft.flags = 0,
        "cd" => draft.flags |= 0x10,
        "ad" => draft.flags |= 0x20,
        "adcd" => draft.flags |= 0x30,
        "z" => draft.flags |= 0x40,
        "tcset" => draft.flags |= 0x200,
        "aaset" => draft.flags |= 0x400,
        "raset" => draft.flags |= 0x80,
        "opcode" => draft.flags |= (dice.below(15) as u16 + 1) << 11,
        "noedns" => draft.edns = None,
        "size0" => draft.edns = Some((0, 0, false, vec![])),
        "size512" | "size4096" | "size65535" => {
            let size = form[4..].parse().unwrap();
            draft.edns = Some((size, 0, dice.chance(2), vec![]));
            kind = dice.one(&["big20", "big200"]);
            text = format!("{number}.{kind}.example");
            draft.name = name(&text);
        }
        "version1" => draft.edns = Some((1232, 1, dice.chance(2), vec![])),
        "version255" => draft.edns = Some((1232, 255, false, vec![])),
        "unknownoption" => draft.edns = Some((1232, 0, false, option(65_100, b"whatever"))),
        "subnet" => draft.edns = Some((1232, 0, false, option(8, &[0, 1, 24, 0, 203, 0, 113]))),
        "cookie" => draft.edns = Some((1232, 0, false, option(10, &[7; 8]))),
        "badcookie" => draft.edns = Some((1232, 0, false, option(10, &vec![7; dice.one(&[0, 3, 9, 15, 41])]))),
        "padding" => draft.edns = Some((1232, 0, false, option(12, &[0; 40]))),
        "nsid" => draft.edns = Some((1232, 0, false, option(3, &[]))),
        "badoption" => draft.edns = Some((1232, 0, false, vec![0, 8, 0, 90, 1])),
        "upper" => draft.name.make_ascii_uppercase(),
        "mixedcase" => draft.name.iter_mut().skip(3).step_by(2).for_each(|octet| octet.make_ascii_uppercase()),
        "case" => {
            // Another name each time, so that the case goes all the way.
            text = format!("n{id}.{number}.CNAME2.Example");
            draft.name = name(&text);
        }
        "root" => (draft.name, draft.qtype, text) = (vec![0], dice.one(&[2, 6, 1]), ".".to_owned()),
        "toplevel" => {
            text = dice.one(&["example", "nonesuch-tld", "v4only.example"]).to_owned();
            (draft.name, draft.qtype) = (name(&text), dice.one(&[1, 2, 6]));
        }
        "deep" => {
            text = format!("{}{number}.v4only.example", "a.".repeat(90));
            draft.name = name(&text);
        }
        "binarylabel" => {
            draft.name = [&[5, 0, 255, b'.', b' ', b'@'][..], &name(&format!("{number}.v4only.example"))].concat();
        }
        "longname" => {
            let label = "l".repeat(63);
            let rest = 255 - 3 * 64 - name("1.v4only.example").len() - 1;
            text = format!("{label}.{label}.{label}.{}.1.v4only.example", "m".repeat(rest));
            draft.name = name(&text);
            assert_eq!(draft.name.len(), 255);
        }
        _ => wait = Wait::AtOnce,
    }
    let mut octets = draft.encode(id);
    if wait == Wait::AtOnce {
        tcp = false;
        text = "1.plain.example".to_owned();
        let bare = Draft { name: name(&text), ..draft };
        let plain = Draft { edns: None, ..bare };
        let with_opt = |rest: &[u8]| [&plain.encode(id)[..], rest].concat();
        let opt = [0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0];
        octets = plain.encode(id);
        match form {
            "twoopts" => {
                octets = with_opt(&[opt, opt].concat());
                octets[11] = 2;
            }
            "optowner" => {
                octets = with_opt(&[&[1, b'x'][..], &opt].concat());
                octets[11] = 1;
            }
            "optinanswer" => {
                octets = with_opt(&opt);
                octets[7] = 1;
            }
            "noquestion" => {
                octets = octets[..12].iter().enumerate().map(|(at, octet)| if at == 5 { 0 } else { *octet }).collect()
            }
            "twoquestions" => {
                let question = octets[12..].to_vec();
                octets.extend(question);
                octets[5] = 2;
            }
            "answerinquestion" => {
                octets.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 1]);
                octets[7] = 1;
            }
            "trailing" => octets.extend([1, 2, 3, 4, 5]),
            "short" => octets.truncate(dice.one(&[1, 2, 5, 11])),
            "cutname" => octets.truncate(dice.one(&[13, 16, octets.len() - 5, octets.len() - 1])),
            "longlabel" => octets[12] = dice.one(&[64, 100, 0x80, 0x41]),
            "pointername" => octets.splice(12.., [0xc0, dice.one(&[12, 14, 0]), 0, 1, 0, 1]).for_each(drop),
            "toolongname" => {
                let label = [&[63][..], &[b'l'; 63]].concat();
                octets.splice(12.., [&label.repeat(4)[..], &[0, 0, 1, 0, 1]].concat()).for_each(drop);
            }
            "response" => octets[2] |= 0x80,
            "empty" => octets.clear(),
            "tsigrecord" => {
                let tsig = [&name("key.example")[..], &[0, 250, 0, 255, 0, 0, 0, 0, 0, 1, 0]].concat();
                octets = with_opt(&tsig);
                octets[11] = 1;
            }
            "reservedflags" => {
                octets = with_opt(&[0, 0, 41, 4, 0xd0, 0, 0, 0x7f, 0xff, 0, 0]);
                octets[11] = 1;
            }
            "countlies" => octets[dice.one(&[7, 9, 11])] = 3,
            _ => unreachable!("{form}"),
        }
    }
    Question { kind, form, octets, tcp, wait, text: format!("{text} {form}") }
}
