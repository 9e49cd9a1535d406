//! List files of all formats: every line counts as something, and what is read can be shown.
#![no_main]

use destguard::config::schema::ListFormat;
use destguard::core::policy::list::{MAX_ERRORS, parse};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [choice, content @ ..] = input else { return };
    let formats = [ListFormat::Domains, ListFormat::Hosts, ListFormat::Adblock, ListFormat::Rpz];
    let mut taken = 0;
    let mut last = 0;
    let report = parse(formats[usize::from(choice & 3)], content, &mut |entry| {
        assert!(entry.line >= last && entry.line > 0, "lines come in order");
        last = entry.line;
        assert!(!entry.trigger.to_string().is_empty());
        taken += 1;
    });
    assert_eq!(report.entries, taken);
    assert_eq!(report.errors.len(), report.wrong.min(MAX_ERRORS));
});
