//! The paths that a file names, from the root of the crate.
//!
//! ```text
//! use crate::{http, store::Key};    http   store::Key
//! use super::pool::Work as W;       front::poll::pool::Work, in a file of front/poll
//! http::print(…)  W::new()          http::print   front::poll::pool::Work::new, by the imports above
//! ```

use crate::source::{File, is_word};
use std::collections::BTreeSet;

/// What a file names.
#[derive(Debug, Default)]
pub struct Named {
    /// Its imports.
    pub uses: Vec<Use>,
    /// The paths in its code.
    pub paths: Vec<Vec<String>>,
    /// Every word of its code.
    pub words: BTreeSet<String>,
    /// The modules it declares that are files of their own.
    pub children: Vec<String>,
}

/// An import, of something of ours.
#[derive(Debug, PartialEq)]
pub struct Use {
    /// What it is called here.
    pub name: String,
    /// What it is.
    pub path: Vec<String>,
    /// It is a name for others, too.
    pub is_public: bool,
}

impl Named {
    /// Reads a file.
    pub fn by(file: &File) -> Named {
        let mut named = Named::default();
        let mut reader = Reader::new(file);
        let mut uses = Vec::new();
        let mut code = Vec::new();
        while let Some(token) = reader.token() {
            match (token, reader.ahead(1), reader.ahead(2)) {
                ("use", next, _) if next != "<" => {
                    let is_public = reader.is_public();
                    reader.at += 1;
                    let is_of_a_crate = reader.ahead(0) == "::";
                    let mut leaves = Vec::new();
                    reader.tree(&[], &mut leaves);
                    if is_of_a_crate {
                        continue;
                    }
                    let inside = reader.inside.len();
                    uses.extend(
                        leaves.into_iter().map(|(name, path)| (name, path, is_public, inside)),
                    );
                }
                ("mod", name, ";") => {
                    named.children.push(name.to_owned());
                    reader.at += 2;
                }
                ("mod", _, "{") => {
                    reader.at += 2;
                    reader.inside.push(reader.depth);
                }
                (word, ..) if is_word(word) => {
                    let follows = ["::", "."].contains(&reader.behind(1));
                    let path = reader.path();
                    if !follows {
                        named.words.insert(path[0].clone());
                        code.push((path, reader.inside.len()));
                    }
                }
                _ => reader.at += 1,
            }
        }
        let module: Vec<String> = file.module().into_iter().map(str::to_owned).collect();
        for (name, path, is_public, inside) in uses {
            let found = absolute(&path, &module, inside, &named);
            named.uses.extend(found.into_iter().map(|path| Use {
                name: name.clone(),
                path,
                is_public,
            }));
        }
        let found: Vec<_> = code
            .iter()
            .flat_map(|(path, inside)| absolute(path, &module, *inside, &named))
            .collect();
        named.paths = found.into_iter().filter(|path| !path.is_empty()).collect();
        named
    }
}

/// What a path can be, from the root; nothing if it is none of ours. `inside` so many modules of this very file.
fn absolute(path: &[String], module: &[String], inside: usize, named: &Named) -> Vec<Vec<String>> {
    let supers = path.iter().take_while(|word| *word == "super").count();
    let first = path[0].as_str();
    let below = |above: &[String], rest: &[String]| [above, rest].concat();
    if first == "crate" {
        vec![path[1..].to_vec()]
    } else if first == "self" {
        vec![below(module, &path[1..])]
    } else if supers > 0 {
        let up = supers.saturating_sub(inside).min(module.len());
        vec![below(&module[..module.len() - up], &path[supers..])]
    } else if named.children.iter().any(|child| child == first) {
        vec![below(module, path)]
    } else {
        let uses = named.uses.iter().filter(|import| import.name == first);
        uses.map(|import| below(&import.path, &path[1..])).collect()
    }
}

struct Reader<'a> {
    tokens: &'a [String],
    at: usize,
    /// Braces that are open.
    depth: usize,
    /// How many were, at the beginning of each module that we are inside of.
    inside: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a File) -> Reader<'a> {
        Reader { tokens: &file.tokens, at: 0, depth: 0, inside: Vec::new() }
    }

    /// The next token, with an eye on the braces.
    fn token(&mut self) -> Option<&'a str> {
        let token = self.tokens.get(self.at)?;
        match token.as_str() {
            "{" => self.depth += 1,
            "}" => {
                self.depth = self.depth.saturating_sub(1);
                self.inside.pop_if(|depth| *depth == self.depth);
            }
            _ => {}
        }
        Some(token)
    }

    fn ahead(&self, n: usize) -> &'a str {
        self.tokens.get(self.at + n).map_or("", String::as_str)
    }

    fn behind(&self, n: usize) -> &'a str {
        self.at.checked_sub(n).map_or("", |at| &self.tokens[at])
    }

    /// Whether the item at hand has `pub` before it, or `pub(…)`.
    fn is_public(&self) -> bool {
        self.behind(1) == "pub" || self.behind(1) == ")" && self.behind(4) == "pub"
    }

    /// The words that `::` joins.
    fn path(&mut self) -> Vec<String> {
        let mut path = vec![self.ahead(0).to_owned()];
        self.at += 1;
        while self.ahead(0) == "::" && is_word(self.ahead(1)) {
            path.push(self.ahead(1).to_owned());
            self.at += 2;
        }
        path
    }

    /// A use tree: what each leaf is called, and its path.
    fn tree(&mut self, above: &[String], leaves: &mut Vec<(String, Vec<String>)>) {
        let mut path = above.to_vec();
        loop {
            match self.ahead(0) {
                "::" => {
                    self.at += 1;
                    continue;
                }
                "{" => {
                    self.at += 1;
                    while !["}", ""].contains(&self.ahead(0)) {
                        match self.ahead(0) {
                            "," => self.at += 1,
                            _ => self.tree(&path, leaves),
                        }
                    }
                    self.at += 1;
                    return;
                }
                "*" => {
                    self.at += 1;
                    return leaves.push(("*".to_owned(), path));
                }
                "self" if !path.is_empty() => self.at += 1,
                word if is_word(word) => {
                    path.push(word.to_owned());
                    self.at += 1;
                }
                _ => return,
            }
            if self.ahead(0) != "::" {
                let mut name = path.last().cloned().unwrap_or_default();
                if self.ahead(0) == "as" {
                    name = self.ahead(1).to_owned();
                    self.at += 2;
                }
                return leaves.push((name, path));
            }
        }
    }
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let source = "
        mod pool; mod std; pub mod inner { use super::pool::A; fn f() { super::g(); super::super::h(); self::x() } }
        use crate::{http::{self, Head as H}, store};
        pub(crate) use super::{Options, listen::*};
        use ::std::io; use ::std::{fmt, fs}; use log::info;
        fn f<'a>(a: &'a H) -> impl Iterator + use<'a> { pool::take(); store::redis::B::new(); a.http.len() }
        fn g(x: crate::net::World) -> io::Result<Options> { http::print() }
    ";
    let file = File::of("front/poll/mod.rs", source);
    let named = Named::by(&file);
    let uses: Vec<String> = named
        .uses
        .iter()
        .map(|u| {
            format!("{} {} {}", u.name, u.path.join("::"), if u.is_public { "pub" } else { "" })
        })
        .collect();
    assert_eq!(
        uses,
        [
            "A front::poll::pool::A ",
            "http http ",
            "H http::Head ",
            "store store ",
            "Options front::Options pub",
            "* front::listen pub",
        ]
    );
    let paths: Vec<String> = named.paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(
        paths,
        [
            "front::poll::g",
            "front::h",
            "front::poll::x",
            "http::Head",
            "front::poll::pool::take",
            "store::redis::B::new",
            "net::World",
            "front::Options",
            "http::print",
        ]
    );
    assert_eq!(named.children, ["pool", "std"]);
}
