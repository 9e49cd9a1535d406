//! More than one upstream, of which some lie or are broken.

use super::*;

/// Upstreams by their place; anyone is the first.
struct Several(Vec<Internet>);

impl Source for Several {
    async fn ask(&self, query: &Query, whom: Pick) -> Result<Vec<u8>, AskError> {
        let place = match whom {
            Pick::Anyone => 0,
            Pick::Only(place) => place % self.0.len(),
        };
        self.0[place].ask(query, whom).await
    }

    fn choices(&self) -> usize {
        self.0.len()
    }
}

/// The same zones behind each upstream, and what each makes of them.
fn several(changes: Vec<Tamper>) -> (Validator, Several) {
    let net = internet();
    let validator = validator(&net);
    let zones = std::sync::Arc::new(net);
    let upstream = |change: Tamper| {
        let zones = zones.clone();
        let mut upstream = Internet::new(Vec::new());
        upstream.tamper = Box::new(move |query, reply| {
            *reply = zones.reply(query);
            change(query, reply);
        });
        upstream
    };
    (validator, Several(changes.into_iter().map(upstream).collect()))
}

fn honest() -> Tamper {
    Box::new(|_, _| {})
}

async fn seen(validator: &Validator, source: &Several, text: &str, qtype: u16) -> Seen {
    sight(validator.ask(source, &ask(text, qtype)).await)
}

#[tokio::test]
async fn a_lying_upstream_takes_no_name_away_that_another_has() {
    type Lie = fn(&Query, &mut Reply);
    let forge: Lie = |query, reply| {
        if query.qtype == 1 {
            let rdata = vec![192, 0, 2, 66];
            *reply =
                Reply { answer: vec![Rr { owner: query.name.clone(), kind: 1, ttl: 9, rdata }], ..Reply::default() };
        }
    };
    let lies: Vec<(&str, Lie)> = vec![
        ("forged data", forge),
        ("no signatures", |_, reply| reply.strip_signatures()),
        ("no digest, no proof", |query, reply| {
            if query.qtype == rtype::DS {
                *reply = Reply::default();
            }
        }),
        ("no keys", |query, reply| {
            if query.qtype == rtype::DNSKEY {
                reply.answer.clear();
            }
        }),
        ("no answer for the chain", |query, reply| {
            if query.qtype != 1 {
                reply.rcode = 2;
            }
        }),
        ("an alias to itself", |query, reply| {
            if query.qtype == 1 {
                let rdata = query.name.wire().to_vec();
                *reply = Reply {
                    answer: vec![Rr { owner: query.name.clone(), kind: 5, ttl: 9, rdata }],
                    ..Reply::default()
                };
            }
        }),
        ("what can't be read", |query, reply| {
            if query.qtype == 1 {
                reply.answer[0].kind = 2;
                reply.answer[0].rdata = vec![63];
            }
        }),
    ];
    for (what, lie) in lies {
        let (validator, source) = several(vec![Box::new(lie), honest()]);
        assert_eq!(seen(&validator, &source, "www.nsec.test", 1).await, Secure(0, vec![1, 2]), "{what}");
        assert_eq!(validator.metrics.validation_rescues.get(), 1, "{what}");
        assert_eq!(validator.metrics.validated.get_or_create(&Outcome { outcome: "secure" }).get(), 1, "{what}");
        assert_eq!(validator.metrics.validated.get_or_create(&Outcome { outcome: "bogus" }).get(), 0, "{what}");
        // Also of names that don't exist, and after two that lie.
        let (validator, source) = several(vec![Box::new(forge), Box::new(forge), honest()]);
        assert_eq!(seen(&validator, &source, "none.nsec3.test", 1).await, Secure(3, vec![]), "{what}");
    }
}

#[tokio::test]
async fn when_all_lie_the_last_word_stands_and_the_cost_is_bounded() {
    let no_signature: Tamper = Box::new(|query, reply| {
        if query.qtype == 1 {
            reply.strip_signatures();
        }
    });
    let wrong_address: Tamper = Box::new(|query, reply| {
        if query.qtype == 1 {
            reply.answer[0].rdata[3] ^= 64;
        }
    });
    let (validator, source) = several(vec![no_signature, wrong_address]);
    // The first, asked of anyone; then each alone.
    assert_eq!(seen(&validator, &source, "www.nsec.test", 1).await, Bogus(6));
    assert_eq!(validator.metrics.validation_retries.get(), 2);
    assert_eq!(validator.metrics.validated.get_or_create(&Outcome { outcome: "bogus" }).get(), 1);
    // However many upstreams there are.
    let no_keys = || -> Tamper {
        Box::new(|query, reply| {
            if query.qtype == rtype::DNSKEY && query.name == name("nsec.test") {
                reply.answer.clear();
            }
        })
    };
    let (validator, source) = several((0..8).map(|_| no_keys()).collect());
    assert_eq!(seen(&validator, &source, "www.nsec.test", 1).await, Bogus(9));
    assert_eq!(validator.metrics.validation_retries.get(), RETRIES as u64);
    let asked = || source.0.iter().map(|net| net.asked.lock().unwrap().len()).sum::<usize>();
    let before = asked();
    assert!(before <= 5 + 3 * (1 + RETRIES), "{before}");
    // All have been asked: for some seconds there is nothing more to be had of them.
    assert_eq!(seen(&validator, &source, "text.nsec.test", TXT).await, Bogus(9));
    assert_eq!(asked() - before, 1);
    assert_eq!(validator.metrics.validation_retries.get(), RETRIES as u64);
}

/// Those who ask at the same moment don't each begin from the start.
#[tokio::test]
async fn many_questions_into_a_broken_zone_ask_for_its_keys_a_few_times() {
    let no_keys = || -> Tamper {
        Box::new(|query, reply| {
            if query.qtype == rtype::DNSKEY && query.name == name("nsec.test") {
                reply.answer.clear();
            }
        })
    };
    let (validator, source) = several(vec![no_keys(), no_keys()]);
    let shared = std::sync::Arc::new((validator, source));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let shared = shared.clone();
        tasks.spawn(async move { seen(&shared.0, &shared.1, "www.nsec.test", 1).await });
    }
    assert!(tasks.join_all().await.into_iter().all(|seen| seen == Bogus(9)));
    let keys = |net: &Internet| {
        let asked = net.asked.lock().unwrap();
        asked.iter().filter(|(asked, qtype)| *qtype == rtype::DNSKEY && *asked == name("nsec.test")).count()
    };
    assert_eq!(shared.1.0.iter().map(keys).sum::<usize>(), 3, "of anyone, and of each");
}

/// More queries than one answer may cost: a name of a hundred labels whose signature is gone. No other upstream is asked for as many.
#[tokio::test]
async fn too_many_queries_are_not_made_again_elsewhere() {
    let mut net = internet();
    let deep = format!("{}nsec.test", "a.".repeat(100));
    net.zone("nsec.test").address(&deep, 3);
    let validator = validator(&net);
    let zones = std::sync::Arc::new(net);
    let upstream = || {
        let zones = zones.clone();
        let mut upstream = Internet::new(Vec::new());
        upstream.tamper = Box::new(move |query, reply| {
            *reply = zones.reply(query);
            if query.qtype == 1 {
                reply.strip_signatures();
            }
        });
        upstream
    };
    let source = Several(vec![upstream(), upstream(), upstream()]);
    let seen = seen(&validator, &source, &deep, 1).await;
    assert_eq!(seen, TooMuch("too many queries for one answer".to_owned()));
    assert_eq!(validator.metrics.validation_retries.get(), 0);
    assert!(source.0[1..].iter().all(|other| other.asked.lock().unwrap().is_empty()));
}

/// What costs too much costs as much again wherever the same zones are to be had.
#[tokio::test]
async fn what_costs_too_much_is_asked_of_nobody_else() {
    let mut net = internet();
    bounds::collide(net.zone("nsec.test"));
    let validator = validator(&net);
    let zones = std::sync::Arc::new(net);
    let upstream = || {
        let zones = zones.clone();
        let mut upstream = Internet::new(Vec::new());
        upstream.tamper = Box::new(move |query, reply| {
            *reply = zones.reply(query);
            if query.qtype == 1 {
                bounds::multiply(reply, 1);
            }
        });
        upstream
    };
    let source = Several(vec![upstream(), upstream(), upstream()]);
    let seen = seen(&validator, &source, "www.nsec.test", 1).await;
    assert_eq!(seen, TooMuch("too many wrong signatures for one answer".to_owned()));
    assert_eq!((validator.metrics.validation_retries.get(), validator.metrics.validation_wrong.get()), (0, 16));
    assert!(source.0[1..].iter().all(|other| other.asked.lock().unwrap().is_empty()));
}
