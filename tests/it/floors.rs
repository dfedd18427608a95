//! The house has floors: imports go down, and no files import each other in a circle. The list of floors is the table
//! in `docs/architecture.md`, so that what people read is what is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// A module's path below its crate; the crate's own is empty.
type Module = Vec<String>;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .into()
}

/// Every file of a crate by the module that it is.
fn files_of(src: &Path) -> BTreeMap<Module, PathBuf> {
    fn walk(folder: &Path, module: &[String], found: &mut BTreeMap<Module, PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut below = module.to_vec();
            if path.is_dir() {
                below.push(stem);
                walk(&path, &below, found);
            } else if path.extension().is_some_and(|it| it == "rs") {
                if !matches!(stem.as_str(), "mod" | "lib" | "main") {
                    below.push(stem);
                }
                found.insert(below, path);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(src, &[], &mut found);
    found
}

/// Collects the paths that a file names, as far as they may be of its own crate.
struct Names<'a> {
    module: &'a Module,
    children: BTreeSet<String>,
    found: BTreeSet<Module>,
    /// What it passes on under a name of its own: the name, and the path that it stands for.
    passed_on: BTreeMap<String, Module>,
    passes_on: bool,
}

impl Names<'_> {
    fn add(&mut self, segments: &[String]) {
        let mut module = self.module.clone();
        let rest = match segments.first().map(String::as_str) {
            Some("crate") => {
                module.clear();
                &segments[1..]
            }
            Some("self") => &segments[1..],
            Some("super") => {
                let ups = segments.iter().take_while(|it| *it == "super").count();
                module.truncate(module.len().saturating_sub(ups));
                &segments[ups..]
            }
            Some(child) if self.children.contains(child) => segments,
            _ => return,
        };
        module.extend_from_slice(rest);
        if self.passes_on
            && let Some(name) = module.last()
        {
            self.passed_on.insert(name.clone(), module.clone());
        }
        self.found.insert(module);
    }

    fn add_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.add_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.add(&with(&name.ident)),
            syn::UseTree::Rename(name) => self.add(&with(&name.ident)),
            syn::UseTree::Glob(_) => self.add(before),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(before, tree);
                }
            }
        }
    }

    /// What a macro is given is no syntax yet: there only what begins with `crate` is taken for a path.
    fn add_tokens(&mut self, tokens: proc_macro2::TokenStream) {
        let mut path: Vec<String> = Vec::new();
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Ident(name) if name == "crate" => {
                    path = vec!["crate".into()]
                }
                proc_macro2::TokenTree::Ident(name) if !path.is_empty() => {
                    path.push(name.to_string())
                }
                proc_macro2::TokenTree::Punct(mark) if mark.as_char() == ':' => continue,
                other => {
                    self.add(&std::mem::take(&mut path));
                    if let proc_macro2::TokenTree::Group(group) = other {
                        self.add_tokens(group.stream());
                    }
                }
            }
        }
        self.add(&path);
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        list.path.is_ident("cfg") && list.tokens.to_string() == "test"
    })
}

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.passes_on = !matches!(item.vis, syn::Visibility::Inherited);
        self.add_tree(&[], &item.tree);
        self.passes_on = false;
    }

    /// To whom something is visible is no import.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path
            .segments
            .iter()
            .map(|it| it.ident.to_string())
            .collect();
        self.add(&segments);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.add_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

/// Which modules each module of a crate imports from: the one where a thing is, whoever passes it on.
fn imports_of(src: &Path) -> BTreeMap<Module, BTreeSet<Module>> {
    let files = files_of(src);
    let read = |(module, file): (&Module, &PathBuf)| {
        let text = std::fs::read_to_string(file).unwrap();
        let syntax =
            syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let children = syntax.items.iter().filter_map(|item| match item {
            syn::Item::Mod(it) if it.content.is_none() => Some(it.ident.to_string()),
            _ => None,
        });
        let mut names = Names {
            module,
            children: children.collect(),
            found: BTreeSet::new(),
            passed_on: BTreeMap::new(),
            passes_on: false,
        };
        names.visit_file(&syntax);
        (module.clone(), names.found, names.passed_on)
    };
    let read: Vec<_> = files.iter().map(read).collect();
    let passed_on: BTreeMap<Module, &BTreeMap<String, Module>> = read
        .iter()
        .map(|(module, _, passed_on)| (module.clone(), passed_on))
        .collect();
    let owner = |path: &Module| {
        let mut path = path.clone();
        // A thing that is passed on is passed on a few times at most.
        for _ in 0..8 {
            let length = (0..=path.len())
                .rev()
                .find(|it| files.contains_key(&path[..*it]))?;
            let module = path[..length].to_vec();
            let name = path.get(length)?;
            match passed_on[&module].get(name) {
                Some(origin) if *origin != path => {
                    path = [origin, &path[length + 1..]].concat();
                }
                _ => return Some(module),
            }
        }
        None
    };
    let whole = |path: &Module| files.contains_key(path).then(|| path.clone());
    read.iter()
        .map(|(module, found, _)| {
            let mut from: BTreeSet<Module> = found
                .iter()
                .filter_map(|path| whole(path).or_else(|| owner(path)))
                .collect();
            from.remove(module);
            (module.clone(), from)
        })
        .collect()
}

/// What is left when nobody is left who imports nothing: the circles, and who stands above them.
fn circles(mut imports: BTreeMap<Module, BTreeSet<Module>>) -> Vec<String> {
    loop {
        let done: BTreeSet<Module> = imports
            .iter()
            .filter(|(_, from)| from.is_empty())
            .map(|(module, _)| module.clone())
            .collect();
        if done.is_empty() {
            break;
        }
        imports.retain(|module, _| !done.contains(module));
        for from in imports.values_mut() {
            from.retain(|module| !done.contains(module));
        }
    }
    // Those above a circle are in none: nobody who is left imports them.
    loop {
        let needed: BTreeSet<Module> = imports.values().flatten().cloned().collect();
        let before = imports.len();
        imports.retain(|module, _| needed.contains(module));
        if imports.len() == before {
            break;
        }
    }
    let line = |(module, from): (&Module, &BTreeSet<Module>)| {
        let from: Vec<String> = from.iter().map(|it| it.join("::")).collect();
        format!("{} imports from {}", module.join("::"), from.join(", "))
    };
    imports.iter().map(line).collect()
}

/// Rooms by floor, as the table in the documentation has them: `| 3 | `jobs` | … |`.
fn floors() -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(repository().join("docs/architecture.md")).unwrap();
    let mut floors = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, rooms, ..] = cells[..] else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        for room in rooms.split('`').skip(1).step_by(2) {
            assert!(
                floors.insert(room.to_owned(), number).is_none(),
                "{room} is on two floors"
            );
        }
    }
    floors
}

#[test]
fn imports_of_the_extension_go_down_only() {
    let floors = floors();
    let imports = imports_of(&repository().join("src"));
    let rooms: BTreeSet<&String> = imports.keys().filter_map(|module| module.first()).collect();
    // The roof, and the tests that run inside a server, see everything.
    let apart = ["tests".to_owned()];
    let listed: BTreeSet<&String> = floors.keys().chain(&apart).collect();
    assert_eq!(
        rooms, listed,
        "docs/architecture.md lists the rooms of src/"
    );
    let mut wrong = Vec::new();
    for (module, from) in &imports {
        let Some(room) = module.first().filter(|room| !apart.contains(room)) else {
            continue;
        };
        for other in from {
            let below = match other.first() {
                Some(it) if it == room => true,
                Some(it) => floors.get(it).is_some_and(|floor| floor < &floors[room]),
                None => false,
            };
            if !below {
                wrong.push(format!(
                    "{} imports from {}",
                    module.join("::"),
                    other.join("::")
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that do not go down:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let crates = std::fs::read_dir(repository().join("crates")).unwrap();
    let mut folders: Vec<PathBuf> = crates
        .map(|entry| entry.unwrap().path().join("src"))
        .collect();
    folders.push(repository().join("src"));
    assert!(folders.len() > 4);
    let mut found = Vec::new();
    for folder in folders {
        let mut imports = imports_of(&folder);
        assert!(
            imports.values().any(|from| !from.is_empty()) || imports.len() < 4,
            "{}",
            folder.display()
        );
        // Tests inside a server are asked for by the roof, and see everything.
        imports.remove(&vec!["tests".to_owned()]);
        for from in imports.values_mut() {
            from.remove(&vec!["tests".to_owned()]);
        }
        found.extend(
            circles(imports)
                .into_iter()
                .map(|line| format!("{}: {line}", folder.display())),
        );
    }
    assert!(found.is_empty(), "circles:\n{}", found.join("\n"));
}

/// A map that names a place which is not there misleads.
#[test]
fn every_source_file_that_the_docs_name_exists() {
    let mut named = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(repository().join("docs")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|it| it != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path = ["src/", "crates/", "tests/", "scripts/", "sql/"]
                .iter()
                .any(|folder| quoted.starts_with(folder));
            if !is_path
                || quoted.contains([' ', '*', '<'])
                || quoted.contains("NOUN")
                || quoted.contains("NAME")
                || quoted.contains("OLD")
            {
                continue;
            }
            named += 1;
            if !repository().join(quoted).exists() {
                wrong.push(format!("{}: {quoted}", file.display()));
            }
        }
    }
    assert!(named > 30, "{named}");
    assert!(
        wrong.is_empty(),
        "docs name what does not exist:\n{}",
        wrong.join("\n")
    );
}
