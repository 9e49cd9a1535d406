//! What a simulated hour is made of: the host, who asks, what goes wrong and when. A seed makes one; what shrank of it
//! is kept as JSON.

use serde::{Deserialize, Serialize};

use super::draw::Draw;

/// Milliseconds of the simulated hour.
pub type Millis = u64;
/// The most routers.
pub const MOST_ROUTERS: usize = 2;

/// What the simulated kernel does, by its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Linux {
    /// An element that is added again stays as it was; nothing can be destroyed.
    V5_10,
    /// Elements can be destroyed.
    V6_3,
    /// An element that is added again moves its end, unless it is added with the timeout that it has and no expiration.
    V6_12,
}

/// A fault of what is around the guard, put in by hand to see that it is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Defect {
    /// All is as it should be.
    #[default]
    None,
    /// Elements are added again without an expiration.
    PlainAdds,
    /// A plan is acknowledged as it is sent.
    AckedEarly,
    /// Elements end earlier by `lease.grace`.
    TooShort,
    /// A record is acknowledged and written 20 s later.
    RecordLost,
    /// Withdrawals overtake announcements on their way to the router.
    Overtaken,
    /// The kernel's lists show what was written, not what is there.
    BlindLists,
    /// An answer that comes late says that it was judged by the rules in force.
    LateAsNew,
    /// The session of a router that is taken out of the configuration goes on.
    LeftBehind,
    /// What is leased to one client is open for everybody.
    ForEverybody,
    /// Ends are told by the wall clock alone.
    WallAlone,
    /// Nobody is told that the wall clock was set right.
    ClockUnheeded,
    /// A session that comes up counts as a router that has everything.
    ThereAtOnce,
}

/// A client of the hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The last octet of the client's address, 192.0.2.N.
    pub number: u8,
    /// About so long it waits between two questions.
    pub pause: Millis,
}

/// Something goes wrong, or somebody does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When it is done, since the hour began.
    pub at: Millis,
    /// What is done to the world.
    pub what: What,
}

/// See [`Fault`]. `span`: for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// The daemon is killed and starts again. `within`: in the middle of a turn, after the drivers got its commands
    /// and the journal so many of its records.
    Kill { down: Millis, within: Option<usize> },
    /// The host sleeps.
    Sleep { span: Millis },
    /// The host boots. `behind`: by so much its wall clock is behind then, until it is set right. `kept`: the power
    /// failed, and so many of a hundred of the octets that were not flushed are on disk.
    Reboot { down: Millis, behind: Millis, kept: Option<usize> },
    /// Somebody sets the wall clock.
    ClockStepped { by: i64 },
    /// Commands take so much longer to the kernel, and reports back.
    SlowKernel { span: Millis, by: Millis },
    /// The kernel refuses everything.
    KernelFails { span: Millis },
    /// Somebody removes the table.
    TableRemoved,
    /// Somebody empties the sets.
    Flushed,
    /// The disk takes nothing.
    JournalFails { span: Millis },
    /// Upstreams lose so many replies of a hundred.
    LossyUpstream { span: Millis, percent: u64 },
    /// The way to the router takes so much longer.
    SlowRouter { span: Millis, by: Millis },
    /// The session ends. `keeps`: the router keeps the routes meanwhile.
    RouterLost {
        #[serde(default)]
        place: usize,
        down: Millis,
        keeps: bool,
    },
    /// A reload takes a router out of the configuration; another one adds it again after `span`.
    RouterTakenOut { place: usize, span: Millis },
    /// The operator closes an address.
    Revoke { address: u8 },
    /// The operator closes what a name opened.
    RevokeName { name: u8 },
    /// A reload forbids a name; another one allows it again after `span`.
    Forbid { name: u8, span: Millis },
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// All draws are made of it.
    pub seed: u64,
    /// How long it lasts.
    pub span: Millis,
    /// The kernel as which the simulated one behaves.
    pub linux: Linux,
    /// `lease.min`, in seconds.
    pub min: u64,
    /// `lease.grace`, in seconds.
    pub grace: u64,
    /// `lease.max`, in seconds.
    pub max: u64,
    /// `bgp.linger`, in seconds.
    pub linger: u64,
    /// `lease.capacity`, and the size of the kernel's sets.
    pub capacity: usize,
    /// How many names are asked for.
    pub names: u8,
    /// How many addresses the names lead to.
    pub addresses: u8,
    /// Whether there is a router, which is required.
    pub router: bool,
    /// And another one.
    #[serde(default)]
    pub second: bool,
    /// `nftables.scope = "client"`
    #[serde(default)]
    pub apart: bool,
    /// The clients that ask.
    pub clients: Vec<Client>,
    /// In order of time.
    pub faults: Vec<Fault>,
    /// Put in by hand.
    #[serde(default)]
    pub defect: Defect,
}

impl Plan {
    /// The hour of a seed.
    pub fn of(seed: u64) -> Self {
        let mut draw = Draw::of(&[seed, 1]);
        let span = 3_600_000;
        let addresses = u8::try_from(draw.between(4..=24)).unwrap();
        let names = u8::try_from(draw.between(3..=12)).unwrap();
        let client = |number| Client { number, pause: 2_000 << draw.below(5) };
        let clients = (1..=3 + u8::try_from(seed % 3).unwrap()).map(client).collect();
        let router = draw.percent(60);
        let second = router && draw.percent(50);
        let count = draw.between(0..=40);
        let mut faults: Vec<Fault> = (0..count)
            .map(|_| Fault {
                at: draw.below(span),
                what: what(&mut draw, names, addresses, usize::from(router) + usize::from(second)),
            })
            .collect();
        faults.sort_by_key(|fault| fault.at);
        Self {
            seed,
            span,
            linux: draw.one(&[Linux::V5_10, Linux::V6_3, Linux::V6_12, Linux::V6_12]),
            min: draw.one(&[1, 5, 30, 60]),
            grace: draw.one(&[2, 10, 75]),
            max: draw.one(&[120, 3_600, 86_400]),
            linger: draw.one(&[0, 20, 300]),
            // Now and then too small.
            capacity: usize::from(addresses) + draw.one(&[64, 64, 64, 0]) - draw.one(&[0, 0, 2]),
            names,
            addresses,
            router,
            second,
            apart: Draw::of(&[seed, 9]).percent(40),
            clients,
            faults,
            defect: Defect::None,
        }
    }

    /// Whom an answer to this client opens addresses for: 0 is everybody.
    pub fn owner(&self, client: u8) -> u8 {
        if self.apart { client } else { 0 }
    }

    /// How many routers there are.
    pub fn routers(&self) -> usize {
        usize::from(self.router) + usize::from(self.router && self.second)
    }

    /// The same with a fault put in by hand.
    pub fn with(self, defect: Defect) -> Self {
        Self { defect, ..self }
    }
}

fn what(draw: &mut Draw, names: u8, addresses: u8, routers: usize) -> What {
    let span = draw.one(&[1_500, 5_000, 30_000]) + draw.below(5_000);
    let by = draw.one(&[20, 300, 1_500]);
    let name = u8::try_from(draw.below(u64::from(names))).unwrap();
    let address = u8::try_from(draw.below(u64::from(addresses))).unwrap();
    let place = usize::try_from(draw.below(routers as u64)).unwrap();
    match draw.below(if routers > 0 { 19 } else { 14 }) {
        0 | 1 => What::Kill { down: draw.one(&[50, 2_000, 20_000]), within: None },
        2 => What::Kill { down: draw.one(&[50, 2_000]), within: Some(usize::try_from(draw.below(3)).unwrap()) },
        3 => What::Sleep { span: draw.one(&[300, 20_000, 600_000]) },
        4 => What::SlowKernel { span, by },
        5 => What::KernelFails { span },
        6 if draw.percent(50) => What::TableRemoved,
        6 => What::Flushed,
        7 => What::JournalFails { span },
        8 => What::LossyUpstream { span, percent: draw.between(10..=90) },
        9 => What::Revoke { address },
        10 => What::RevokeName { name },
        11 => What::Forbid { name, span: span * 4 },
        12 => What::Reboot {
            down: draw.one(&[5_000, 30_000, 200_000]),
            behind: draw.one(&[0, 0, 20_000, 190_000, 90_000_000]),
            kept: draw.percent(40).then(|| usize::try_from(draw.below(101)).unwrap()),
        },
        13 => What::ClockStepped { by: draw.one(&[3_600_000, 60_000, -90_000, -86_400_000]) },
        14 => What::SlowRouter { span, by },
        15 | 16 => What::RouterLost { place, down: span, keeps: draw.percent(50) },
        _ => What::RouterTakenOut { place, span },
    }
}
