//! The crate's modules form layers. The doc comment of lib.rs lists the layers; these tests read the list and the
//! sources.
//!
//! A module may use itself and the modules above it in the list. Inside a module the files may not use one another in a
//! circle. A `mod.rs` stands for its whole folder: it declares the files of the folder, and they may use its
//! declarations.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module's path, such as ["kmeans", "lloyd"].
type Module = Vec<String>;

/// The modules that the code of each module names.
type Uses = BTreeMap<Module, BTreeSet<Module>>;

/// Of each node the nodes that it uses.
type Graph = BTreeMap<String, BTreeSet<String>>;

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The modules of the list in lib.rs, the lowest first. A line of the list is "//! 8. `store`: ...".
fn layers() -> Vec<String> {
    let text = fs::read_to_string(sources().join("lib.rs")).expect("lib.rs");
    let entry = |line: &str| {
        let line = line.strip_prefix("//! ")?.trim_start_matches(|c: char| c.is_ascii_digit());
        Some(line.strip_prefix(". `")?.split('`').next()?.to_owned())
    };
    text.lines().filter_map(entry).collect()
}

fn list_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            list_files(&path, files);
        } else {
            files.push(path);
        }
    }
}

fn module_of(file: &Path) -> Module {
    let relative = file.strip_prefix(sources()).expect("a file of the crate").with_extension("");
    let mut module: Module = relative.iter().map(|name| name.to_str().expect("a plain name").to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

fn is_test(module: &Module) -> bool {
    module.iter().any(|name| name == "tests" || name == "testing")
}

/// A file without its comments, and without the tests at its end.
fn code_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let begins_tests = |pair: &[&str]| {
        let is_test = pair[0].starts_with("#[cfg(") && pair[0].contains("test");
        is_test && pair[1].contains("mod ") && pair[1].ends_with('{')
    };
    let end = lines.windows(2).position(begins_tests).unwrap_or(lines.len());
    lines[..end].iter().map(|line| format!("{}\n", line.split("//").next().unwrap_or(""))).collect()
}

/// "a::{b, c::{d, e}}" becomes a::b, a::c::d and a::c::e.
fn expand(tree: &str) -> Vec<String> {
    let Some(open) = tree.find('{') else { return vec![tree.trim().to_owned()] };
    let (prefix, inner) = (tree[..open].trim(), &tree[open + 1..tree.rfind('}').expect("a closing brace")]);
    let (mut depth, mut start, mut branches) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                branches.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    let branches = branches.into_iter().filter(|branch| !branch.trim().is_empty());
    branches.flat_map(expand).map(|path| format!("{prefix}{path}")).collect()
}

/// The paths in some code that begin with crate, super or self. What a `mod.rs` re-exports (`pub use`) is not among
/// them.
fn paths(code: &str, is_folder: bool) -> Vec<String> {
    let mut paths = Vec::new();
    let mut at = 0;
    while let Some(step) = ["crate::", "super::", "self::"].iter().filter_map(|root| code[at..].find(root)).min() {
        let start = at + step;
        let line = code[..start].rsplit('\n').next().unwrap_or("").trim_start();
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let length = match line.ends_with("use ") {
            true => code[start..].find(';'),
            false => code[start..].find(|c| !is_name(c)),
        };
        let end = length.map_or(code.len(), |length| start + length);
        let begins_here = !code[..start].chars().next_back().is_some_and(|c| is_name(c) || c == '$');
        if begins_here && !(is_folder && line.starts_with("pub use")) {
            paths.extend(expand(&code[start..end]));
        }
        at = end;
    }
    paths
}

/// The module that a path in `module` leads to: the longest beginning of the path that is a file or a folder.
fn target(path: &str, module: &Module, all: &BTreeSet<Module>) -> Option<Module> {
    let mut target = module.clone();
    for name in path.split("::").map(str::trim) {
        match name {
            "crate" => target.clear(),
            "super" => drop(target.pop()),
            "self" | "*" => {}
            name => target.push(name.split(" as ").next().unwrap_or(name).to_owned()),
        }
    }
    while !target.is_empty() && !all.contains(&target) {
        target.pop();
    }
    (!target.is_empty()).then_some(target)
}

fn uses() -> Uses {
    let mut files = Vec::new();
    list_files(&sources(), &mut files);
    let all: BTreeSet<Module> = files.iter().map(|file| module_of(file)).collect();
    let mut uses = Uses::new();
    for file in &files {
        let (module, is_folder) = (module_of(file), file.ends_with("mod.rs"));
        if module.is_empty() || is_test(&module) {
            continue;
        }
        let code = code_of(&fs::read_to_string(file).expect("a source file"));
        let targets = paths(&code, is_folder).into_iter().filter_map(|path| target(&path, &module, &all));
        let targets = targets.filter(|target| *target != module && !is_test(target)).collect();
        uses.insert(module, targets);
    }
    uses
}

/// A circle, if there is one: each node uses the next, and the last node uses the first.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    fn visit(node: &String, graph: &Graph, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
        if let Some(start) = way.iter().position(|earlier| earlier == node) {
            return Some(way[start..].to_vec());
        }
        if !done.insert(node.clone()) {
            return None;
        }
        way.push(node.clone());
        let circle = graph.get(node).into_iter().flatten().find_map(|next| visit(next, graph, way, done));
        way.pop();
        circle
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|node| visit(node, graph, &mut Vec::new(), &mut done))
}

/// The files of a folder, and its folders as one node each.
fn graph_of(folder: &[String], uses: &Uses) -> Graph {
    let child = |module: &Module| module.strip_prefix(folder)?.first().cloned();
    let mut graph = Graph::new();
    for (module, targets) in uses {
        let Some(node) = child(module) else { continue };
        let nodes = targets.iter().filter_map(child).filter(|target| *target != node);
        graph.entry(node.clone()).or_default().extend(nodes);
    }
    graph
}

#[test]
fn the_list_of_layers_names_every_module_once() {
    let (layers, uses) = (layers(), uses());
    let modules: BTreeSet<&String> = uses.keys().map(|module| &module[0]).collect();
    assert_eq!(layers.iter().collect::<BTreeSet<_>>(), modules);
    assert_eq!(layers.len(), modules.len(), "a module is in the list twice: {layers:?}");
}

#[test]
fn no_module_uses_a_later_layer() {
    let layers = layers();
    let layer = |module: &Module| layers.iter().position(|layer| *layer == module[0]).expect("a module of the list");
    for (module, targets) in uses() {
        let later: Vec<_> = targets.iter().filter(|target| layer(target) > layer(&module)).collect();
        assert!(later.is_empty(), "{module:?} uses {later:?}, which the list of layers in lib.rs forbids");
    }
}

#[test]
fn no_files_of_a_folder_use_one_another_in_a_circle() {
    let uses = uses();
    let folders: BTreeSet<&[String]> = uses.keys().map(|module| &module[..module.len() - 1]).collect();
    for folder in folders {
        assert_eq!(circle(&graph_of(folder, &uses)), None, "in the folder {folder:?}");
    }
}

/// If the tests above saw too little, they would pass for nothing.
#[test]
fn every_form_of_path_is_seen() {
    let code =
        "use crate::a::{b, c::{d, e}};\nuse super::f;\nlet x = crate::g::h(1);\npub use self::i::j;\nuse std::fs;";
    let expected = ["crate::a::b", "crate::a::c::d", "crate::a::c::e", "super::f", "crate::g::h", "self::i::j"];
    assert_eq!(paths(code, false), expected);
    assert_eq!(paths(code, true), expected[..5]);

    let module = |path: &str| path.split("::").map(str::to_owned).collect::<Module>();
    let all = ["a", "a::c", "k", "k::f", "k::l"].map(module).into();
    let reached = |path: &str, from: &str| target(path, &module(from), &all).map(|target| target.join("::"));
    assert_eq!(reached("crate::a::c::d", "k::l").as_deref(), Some("a::c"));
    assert_eq!(reached("super::f", "k::l").as_deref(), Some("k::f"));
    assert_eq!(reached("super::Thing", "k::l").as_deref(), Some("k"));
    assert_eq!(reached("super::super::a::b", "k::l").as_deref(), Some("a"));
    assert_eq!(reached("crate::Result", "k::l"), None);

    let uses = uses();
    assert!(uses[&module("kmeans::lloyd")].contains(&module("kmeans::waves")));
    assert!(uses[&module("neighbours::exact")].contains(&module("rows::units")));
    let graph =
        |edges: &[(&str, &str)]| edges.iter().map(|(a, b)| ((*a).into(), [(*b).into()].into())).collect::<Graph>();
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])), Some(vec!["b".into(), "c".into()]));
    assert_eq!(circle(&graph(&[("a", "c"), ("b", "c")])), None);
}
