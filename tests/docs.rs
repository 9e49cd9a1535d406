//! What README and docs cite exists: every `path::test` in backticks names a test in that file, every `path` a file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

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
