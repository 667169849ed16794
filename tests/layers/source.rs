//! The source as tokens, and the paths in them.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of `src/`, without its tests.
#[derive(Debug)]
pub struct File {
    /// Below `src/`.
    pub path: String,
    /// See [`tokens`].
    pub tokens: Vec<String>,
}

impl File {
    /// One that is not on the disk.
    pub fn of(path: &str, source: &str) -> File {
        File { path: path.to_owned(), tokens: without_tests(tokens(source)) }
    }

    /// The room it is in: the first folder, or its own name.
    pub fn room(&self) -> &str {
        self.path.split('/').next().expect("split gives one").trim_end_matches(".rs")
    }

    /// Its module: `front/poll/worker.rs` is `front::poll::worker`, and `front/mod.rs` is `front`.
    pub fn module(&self) -> Vec<&str> {
        let path = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        path.split('/').filter(|name| !["lib", "main"].contains(name)).collect()
    }
}

/// Every file of `src/` but those that are tests altogether.
pub fn files() -> Vec<File> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&src, &mut paths);
    assert!(!paths.is_empty(), "no source in {}", src.display());
    let sources: Vec<(String, String)> = paths
        .iter()
        .map(|file| {
            let path = file.strip_prefix(&src).expect("collected below it").to_string_lossy();
            let text = fs::read_to_string(file)
                .unwrap_or_else(|error| panic!("failed to read {path}: {error}"));
            (path.replace('\\', "/"), text)
        })
        .collect();
    without_test_files(&sources)
}

fn without_test_files(sources: &[(String, String)]) -> Vec<File> {
    let module = |path: &str| File::of(path, "").module().join("::");
    let tests: Vec<String> = sources
        .iter()
        .flat_map(|(path, text)| {
            let above = module(path);
            test_modules(&tokens(text)).into_iter().map(move |name| match above.as_str() {
                "" => name,
                above => format!("{above}::{name}"),
            })
        })
        .collect();
    let is_test = |path: &str| {
        let module = module(path);
        let below = |test: &String| module.starts_with(&format!("{test}::"));
        tests.iter().any(|test| module == *test || below(test))
    };
    let sources = sources.iter().filter(|(path, _)| !is_test(path));
    sources.map(|(path, text)| File::of(path, text)).collect()
}

/// The names of modules that are declared under `#[cfg(test)]` and have a file of their own.
fn test_modules(tokens: &[String]) -> Vec<String> {
    let mut names = Vec::new();
    for at in 0..tokens.len() {
        if !tokens[at..].starts_with(&CFG_TEST.map(str::to_owned)) {
            continue;
        }
        let rest = &tokens[at + CFG_TEST.len()..];
        let end = rest.iter().position(|token| [";", "{"].contains(&token.as_str()));
        if let Some(end) = end
            && let [.., keyword, name] = &rest[..end]
            && keyword == "mod"
            && rest[end] == ";"
        {
            names.push(name.clone());
        }
    }
    names
}

const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

/// Removes what follows `#[cfg(test)]`: a block in braces, or a line that ends in a semicolon.
fn without_tests(tokens: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut rest = tokens.as_slice();
    while let Some((token, after)) = rest.split_first() {
        if !rest.starts_with(&CFG_TEST.map(str::to_owned)) {
            kept.push(token.clone());
            rest = after;
            continue;
        }
        let mut depth = 0;
        let end = rest.iter().position(|token| {
            depth += i32::from(token == "{") - i32::from(token == "}");
            depth == 0 && (token == "}" || token == ";")
        });
        rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
    }
    kept
}

/// The words and marks of a Rust source, `::` as one mark; without comments, strings, characters and lifetimes.
pub fn tokens(source: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_whitespace() {
            first.len_utf8()
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest) {
            length
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' {
            character_or_lifetime(rest)
        } else if first == '_' || first.is_alphanumeric() {
            let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            tokens.push(rest[..end].to_owned());
            end
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            tokens.push(rest[..length].to_owned());
            length
        };
        rest = &rest[length..];
    }
    tokens
}

pub fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c == '_' || c.is_alphanumeric())
}

/// The length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of `r"…"`, `r#"…"#`, `br"…"` and so on; `None` if this is something else.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r"].into_iter().find(|prefix| text.starts_with(prefix))?;
    let hashes = text[prefix.len()..].bytes().take_while(|&byte| byte == b'#').count();
    let start = prefix.len() + hashes + 1;
    if text.as_bytes().get(start - 1) != Some(&b'"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    text[start..].find(&end).map(|at| start + at + end.len())
}

/// The length of a literal between two of `quote`, backslashes minded.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `'a'` and `'\n'` are characters; `'a` is a lifetime, of which only the mark is taken here.
fn character_or_lifetime(text: &str) -> usize {
    let mut after = text[1..].chars();
    match (after.next(), after.next()) {
        (Some('\\'), _) | (_, Some('\'')) => quoted(text, '\''),
        _ => 1,
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("failed to list {}: {error}", folder.display()))
    {
        let path = entry.expect("an entry of a folder that can be listed").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
}

#[test]
fn test_files_are_left_out() {
    let sources = [
        ("lib.rs", "mod a; #[cfg(test)] mod b;"),
        (
            "a.rs",
            "#[cfg(test)] mod tests { use crate::x; } #[cfg(test)]\npub(crate) mod fake; mod c;",
        ),
        ("a/fake.rs", "fn f() {}"),
        ("a/c.rs", "fn f() {} #[cfg(test)] mod tests;"),
        ("a/c/tests.rs", ""),
        ("a/c/tests/deep.rs", ""),
        ("b.rs", ""),
    ];
    let sources = sources.map(|(path, text)| (path.to_owned(), text.to_owned()));
    let files = without_test_files(&sources);
    let paths: Vec<&str> = files.iter().map(|file| &*file.path).collect();
    assert_eq!(paths, ["lib.rs", "a.rs", "a/c.rs"]);
    assert_eq!(files[1].tokens, ["mod", "c", ";"]);
}
