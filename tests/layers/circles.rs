//! Files that need each other: whoever wants to read one of them has to read all.
//!
//! A file needs another when it names something that is defined there: in an import, in a path, through any `pub use` on
//! the way. A folder's `mod.rs` is a file like any other. What it only declares (`mod pool;`) or hands on (`pub use
//! pool::Pool;`) is no need of its own: that is the folder's table of contents, and it would be one even if the file
//! behind it were empty. So a child may name what its parent defines, and a parent may use its children, but not both.
//!
//! What cannot be seen here is a need without a name: a method of a type that came from elsewhere.

use crate::paths::{Named, Use};
use crate::source::{File, files};
use std::collections::{BTreeMap, BTreeSet};

/// The circles there are, each with its files in order. Few, and each with the reason why it is one idea in several files.
const ALLOWED: [&[&str]; 0] = [];

#[test]
fn files_form_no_circle() {
    let (files, needs) = needs(files());
    let found = circles(&needs);
    let mut shown = String::new();
    for circle in &found {
        let paths: Vec<&str> = circle.iter().map(|file| &*files[*file].path).collect();
        if ALLOWED.contains(&&paths[..]) {
            continue;
        }
        shown += &format!("\na circle of {}:\n", paths.join(", "));
        for from in circle {
            for (to, names) in needs[*from].iter().filter(|(to, _)| circle.contains(to)) {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let (from, to) = (&files[*from].path, &files[*to].path);
                shown += &format!("  {from} needs {to}: {}\n", names.join(", "));
            }
        }
    }
    assert!(shown.is_empty(), "{shown}");
    assert_eq!(found.len(), ALLOWED.len(), "a circle that is allowed is none any more");
}

/// The names that each file has of each other.
type Needs = Vec<BTreeMap<usize, BTreeSet<String>>>;

struct Tree {
    files: Vec<(File, Named)>,
    by_module: BTreeMap<Vec<String>, usize>,
}

fn needs(files: Vec<File>) -> (Vec<File>, Needs) {
    let files: Vec<(File, Named)> = files
        .into_iter()
        .filter(|file| !["lib.rs", "main.rs"].contains(&&*file.path))
        .map(|file| {
            let named = Named::by(&file);
            (file, named)
        })
        .collect();
    let by_module = files
        .iter()
        .enumerate()
        .map(|(n, (file, _))| (file.module().into_iter().map(str::to_owned).collect(), n));
    let tree = Tree { by_module: by_module.collect(), files };
    let mut needs: Needs = vec![BTreeMap::new(); tree.files.len()];
    for (from, (_, named)) in tree.files.iter().enumerate() {
        let is_own = |import: &&Use| !import.is_public || named.words.contains(&import.name);
        let imports = named.uses.iter().filter(is_own).map(|import| &import.path);
        for path in imports.chain(&named.paths) {
            for (to, name) in tree.define(path) {
                if to != from {
                    needs[from].entry(to).or_default().insert(name);
                }
            }
        }
    }
    (tree.files.into_iter().map(|(file, _)| file).collect(), needs)
}

impl Tree {
    /// The files that define what a path names, and its name there. Nothing for a module as such, or for what is not ours.
    fn define(&self, path: &[String]) -> Vec<(usize, String)> {
        // Nobody hands a name on so often, but a name might be handed on to itself.
        let (mut found, mut open) = (Vec::new(), vec![(path.to_vec(), 8)]);
        while let Some((path, left)) = open.pop() {
            let Some(depth) =
                (1..=path.len()).rev().find(|n| self.by_module.contains_key(&path[..*n]))
            else {
                continue;
            };
            let file = self.by_module[&path[..depth]];
            let Some(item) = path.get(depth) else { continue };
            let imports = &self.files[file].1.uses;
            let handed_on: Vec<&Use> =
                imports.iter().filter(|import| import.name == *item).collect();
            if handed_on.is_empty() {
                found.push((file, item.clone()));
            } else if left > 0 {
                open.extend(
                    handed_on
                        .iter()
                        .map(|import| ([&import.path, &path[depth + 1..]].concat(), left - 1)),
                );
            }
        }
        found
    }
}

/// Groups in which every file needs every other, if only through others.
fn circles(needs: &Needs) -> Vec<Vec<usize>> {
    let reach: Vec<BTreeSet<usize>> = (0..needs.len())
        .map(|from| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
            while let Some(file) = open.pop() {
                open.extend(needs[file].keys().filter(|to| seen.insert(**to)));
            }
            seen
        })
        .collect();
    let mut circles = Vec::new();
    for file in 0..needs.len() {
        let circle: Vec<usize> =
            reach[file].iter().copied().filter(|other| reach[*other].contains(&file)).collect();
        if circle.first() == Some(&file) {
            circles.push(circle);
        }
    }
    circles
}

#[test]
fn the_check_sees_circles_and_nothing_else() {
    let circles_of = |sources: &[(&str, &str)]| {
        let (files, needs) =
            needs(sources.iter().map(|(path, text)| File::of(path, text)).collect());
        let shown = circles(&needs);
        let shown = shown.iter().map(|circle| circle.iter().map(|n| &*files[*n].path));
        shown.map(|paths| paths.collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    let none: [String; 0] = [];
    // Down only, through a table of contents; and a child that names what its parent defines.
    assert_eq!(
        circles_of(&[
            ("a/mod.rs", "mod b; mod c; pub use b::B; pub struct Options;"),
            ("a/b.rs", "use super::{Options, c::C}; pub struct B;"),
            ("a/c.rs", "use crate::a::Options; pub struct C;"),
            ("d.rs", "use crate::a::{self, B}; fn f() { a::b::g() }"),
        ]),
        none
    );
    // Two files; and one that needs them is in no circle.
    assert_eq!(
        circles_of(&[
            ("b.rs", "use crate::c::C; pub struct B;"),
            ("c.rs", "fn f() { crate::b::g(); }"),
            ("d.rs", "use crate::b::B;"),
        ]),
        ["b.rs c.rs"]
    );
    // Through what a parent hands on, and through a module's name.
    assert_eq!(
        circles_of(&[
            ("a/mod.rs", "mod b; mod c; pub use b::B; pub use c::C;"),
            ("a/b.rs", "use super::C;"),
            ("a/c.rs", "use crate::a; fn f(b: a::B) {}"),
        ]),
        ["a/b.rs a/c.rs"]
    );
    // A parent that uses what it hands on, and a child that needs it.
    assert_eq!(
        circles_of(&[
            ("a/mod.rs", "mod b; pub use b::B; pub struct Options; fn f() -> B { B }"),
            ("a/b.rs", "use super::Options;"),
        ]),
        ["a/mod.rs a/b.rs"]
    );
    // Around three corners.
    assert_eq!(
        circles_of(&[
            ("b.rs", "use crate::c::C;"),
            ("c.rs", "use crate::d::D;"),
            ("d.rs", "use crate::b::B; use crate::e::E;"),
            ("e.rs", "use std::fmt;"),
        ]),
        ["b.rs c.rs d.rs"]
    );
    // A test may need what the code may not.
    assert_eq!(
        circles_of(&[
            ("b.rs", "use crate::c::C;"),
            ("c.rs", "#[cfg(test)] mod tests { use crate::b::B; }")
        ]),
        none
    );
}
