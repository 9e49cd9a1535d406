//! What README and docs cite exists: every `path::test` in backticks names a test in that file, every `path` a file.
//! Words of the glossary are in use, and those that they replaced are not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Texts in backticks that look like a path of this repository.
fn cited(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|cited| {
        let path = cited.split("::").next().unwrap_or_default();
        let known = ["src/", "bgp/", "lab/", "tests/", "fuzz/", "docs/", "examples/"];
        known.iter().any(|top| path.starts_with(top)) && !cited.contains([' ', '*', '|', '$', '<'])
    })
}

#[test]
fn what_the_docs_cite_exists() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files =
        ["README.md", "CONTRIBUTING.md", "lab/README.md", "fuzz/README.md"].map(|file| top.join(file)).to_vec();
    let docs = ["docs", "docs/decisions"].map(|docs| std::fs::read_dir(top.join(docs)).unwrap());
    let docs = docs.into_iter().flatten().map(|entry| entry.unwrap().path());
    files.extend(docs.filter(|path| path.extension().is_some_and(|end| end == "md")));
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for cited in cited(&text) {
            seen += 1;
            let (path, test) = cited.split_once("::").map_or((cited, None), |(path, test)| (path, Some(test)));
            let path = [path.to_owned(), format!("{path}.rs"), format!("src/{path}"), format!("lab/{path}")]
                .into_iter()
                .map(|path| top.join(path))
                .find(|path| path.exists());
            let good = match (path, test) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(path), Some(test)) => {
                    path.is_file() && std::fs::read_to_string(path).unwrap().contains(&format!("fn {test}("))
                }
            };
            if !good {
                wrong.push(format!("{}: {cited}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "cited but not there:\n{}", wrong.join("\n"));
    assert!(seen > 60, "the docs cite only {seen} places: is this test reading them?");
}

/// Public names that bear a replaced word still, or mean something else by it. None may join them.
const OLD_NAMES: [&str; 2] = ["Installed", "installed"];

/// Pages that have such a word of another field: what DNSSEC proves, packages, the routes of a router.
const OTHER_FIELDS: [(&str, &str); 6] = [
    ("architecture.md", "proved"),
    ("operation.md", "proved"),
    ("confirmation.md", "installed"),
    ("install.md", "installed"),
    ("routers.md", "installed"),
    ("status.md", "installed"),
];

/// All files below a directory with this ending, without what was built.
fn every_file(directory: &Path, end: &str, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            every_file(&path, end, all);
        } else if path.extension().is_some_and(|found| found == end) {
            all.push(path);
        }
    }
}

/// The same without those of tests.
fn files(directory: &Path, end: &str, all: &mut Vec<PathBuf>) {
    let mut every = Vec::new();
    every_file(directory, end, &mut every);
    let is_test = |path: &PathBuf| {
        path.strip_prefix(directory).unwrap().with_extension("").components().any(|part| part.as_os_str() == "tests")
    };
    all.extend(every.into_iter().filter(|path| !is_test(path)));
}

/// The cells of the table below a heading, or of all above the first one.
fn table(glossary: &str, heading: Option<&str>) -> Vec<(String, String)> {
    let part = match heading {
        Some(heading) => glossary.split_once(&format!("## {heading}\n")).unwrap().1,
        None => glossary,
    };
    let rows = part.split("\n## ").next().unwrap().lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        Some((cells.next()?.to_owned(), cells.next()?.trim_end_matches(" |").to_owned()))
    });
    rows.skip(1).collect()
}

/// Words of a text or a name, in small letters: "is_timedProven" has three.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = ' ';
    for letter in text.chars() {
        let begins = !before.is_ascii_alphanumeric() || (letter.is_ascii_uppercase() && before.is_ascii_lowercase());
        if letter.is_ascii_alphanumeric() {
            if begins {
                words.push(String::new());
            }
            words.last_mut().unwrap().push(letter.to_ascii_lowercase());
        }
        before = letter;
    }
    words
}

/// Whether the words of a term stand there one behind the other; the last one in any of its forms.
fn uses(text: &[String], term: &str) -> bool {
    let term = words(term);
    let (last, first) = term.split_last().unwrap();
    let stem = last.trim_end_matches('e');
    text.windows(term.len()).any(|seen| {
        let (seen_last, seen_first) = seen.split_last().unwrap();
        let form = seen_last == last
            || seen_last.strip_prefix(stem).is_some_and(|rest| {
                ["s", "es", "d", "ed", "ing", "er"].contains(&rest.trim_start_matches(last.chars().last().unwrap()))
            })
            || last.strip_suffix('y').is_some_and(|stem| *seen_last == format!("{stem}ies"));
        form && seen_first == first
    })
}

/// Names of public items and fields.
fn public_names(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix("pub")?;
        let rest = match rest.strip_prefix('(') {
            Some(scope) => scope.split_once(')')?.1,
            None => rest,
        };
        let kinds = ["fn", "struct", "enum", "trait", "type", "const", "static", "mod", "async", "unsafe"];
        rest.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            .filter(|word| !word.is_empty())
            .find(|word| !kinds.contains(word))
    })
}

#[test]
fn words_of_the_glossary_are_in_use_and_those_they_replaced_are_not() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let glossary = std::fs::read_to_string(top.join("docs/glossary.md")).unwrap();
    let mut sources = Vec::new();
    ["src", "bgp/src"].iter().for_each(|part| files(&top.join(part), "rs", &mut sources));
    let mut pages = vec![top.join("README.md")];
    files(&top.join("docs"), "md", &mut pages);
    pages.retain(|page| !page.ends_with("glossary.md"));
    let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    let code: Vec<String> = sources.iter().flat_map(|path| words(&read(path))).collect();
    let prose: Vec<String> = pages.iter().flat_map(|path| words(&read(path))).collect();

    let mut wrong = Vec::new();
    let everywhere = table(&glossary, None);
    assert!(everywhere.len() > 30, "{}: is the table read as it is written?", everywhere.len());
    for (terms, _) in &everywhere {
        for term in terms.split(", ") {
            for (place, text) in [("code", &code), ("docs", &prose)] {
                if !uses(text, term) {
                    wrong.push(format!("\"{term}\" isn't used in the {place}"));
                }
            }
        }
    }
    for (term, _) in table(&glossary, Some("In the code alone")) {
        if !uses(&code, &term) {
            wrong.push(format!("\"{term}\" isn't used in the code"));
        }
    }

    let replaced: BTreeSet<String> = table(&glossary, Some("Say, not"))
        .iter()
        .flat_map(|(_, not)| not.split(", ").map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(replaced.len() > 4, "{replaced:?}");
    for path in &sources {
        // In DNSSEC they are the field's own.
        if path.starts_with(top.join("src/dns")) {
            continue;
        }
        for name in public_names(&read(path)).filter(|name| !OLD_NAMES.contains(name)) {
            if let Some(word) = words(name).iter().find(|word| replaced.contains(*word)) {
                wrong.push(format!("{}: {name} says \"{word}\"", path.display()));
            }
        }
    }
    for path in &pages {
        let page = path.file_name().unwrap().to_string_lossy();
        let own = |word: &str| !OTHER_FIELDS.contains(&(&*page, word));
        // `installed` in backticks is a name that scripts rely on.
        let text = read(path).replace("`installed`", "");
        for word in words(&text).into_iter().filter(|word| replaced.contains(word) && own(word)) {
            wrong.push(format!("{}: says \"{word}\"", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Docs of one word, and of two, that there may be: so few words repeat a name.
const SHORT_DOCS: [usize; 2] = [0, 0];

/// Docs of items in a source, each with its first line from 1 and its text.
fn item_docs(source: &str) -> Vec<(usize, String)> {
    let mut docs: Vec<(usize, String)> = Vec::new();
    let mut before = None;
    for (at, line) in source.lines().enumerate() {
        let Some(text) = line.trim_start().strip_prefix("///") else { continue };
        match docs.last_mut().filter(|_| before == Some(at.wrapping_sub(1))) {
            Some((_, doc)) => doc.extend([" ", text.trim()]),
            None => docs.push((at + 1, text.trim().to_owned())),
        }
        before = Some(at);
    }
    docs
}

#[test]
fn docs_are_sentences_and_not_words() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for part in ["src", "bgp", "lab", "tests", "fuzz"] {
        every_file(&top.join(part), "rs", &mut sources);
    }
    let mut short: [Vec<String>; 2] = Default::default();
    let mut seen = 0;
    for path in sources {
        for (line, doc) in item_docs(&std::fs::read_to_string(&path).unwrap()) {
            seen += 1;
            let count = doc.split_whitespace().count();
            if let Some(short) = count.checked_sub(1).and_then(|place| short.get_mut(place)) {
                short.push(format!("{}:{line}: {doc}", path.strip_prefix(top).unwrap().display()));
            }
        }
    }
    assert!(seen > 5000, "only {seen} docs: is this test reading them?");
    for (words, (found, most)) in short.iter().zip(SHORT_DOCS).enumerate() {
        let all = found.join("\n");
        assert!(found.len() <= most, "{} docs of {} words, at most {most}:\n{all}", found.len(), words + 1);
    }
}
