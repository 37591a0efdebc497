//! What machines can check of how the code should read: places, lengths, layers, words, and documents that agree with programs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use culvert_gateway::error::CallerCode;
use culvert_tests::programs::{Programs, workspace_folder};
use tokio::process::Command;

/// Longest file, in lines that are no tests.
const MAX_FILE_LINES: usize = 400;

/// Each crate: its folder, the crates of ours that it may use, and crates that its layer must not have.
const LAYERS: [(&str, &[&str], &[&str]); 8] = [
    (
        "certs",
        &[],
        &["tokio", "quinn", "hyper", "axum", "socket2"],
    ),
    (
        "relay/wire",
        &[],
        &[
            "tokio",
            "quinn",
            "hyper",
            "axum",
            "socket2",
            "rand",
            "rustls",
            "futures-util",
        ],
    ),
    (
        "relay/tunnel",
        &["culvert-wire", "culvert-certs"],
        &["axum", "redb"],
    ),
    (
        "relay",
        &["culvert-tunnel", "culvert-wire", "culvert-certs"],
        &["axum", "redb", "quinn"],
    ),
    (
        "agent",
        &["culvert-tunnel", "culvert-wire", "culvert-certs"],
        &["axum", "redb", "quinn"],
    ),
    ("gateway/control", &["culvert-certs"], &["quinn"]),
    (
        "gateway",
        &[
            "culvert-relay",
            "culvert-control",
            "culvert-wire",
            "culvert-certs",
        ],
        &["quinn", "redb"],
    ),
    (
        "tests",
        &[
            "culvert-agent",
            "culvert-gateway",
            "culvert-relay",
            "culvert-control",
            "culvert-tunnel",
            "culvert-wire",
            "culvert-certs",
        ],
        &[],
    ),
];

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below `folder` whose name ends in `ending`, without build output.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(workspace_folder())
        .unwrap_or(path)
        .display()
        .to_string()
}

#[test]
fn the_top_level_is_exactly_what_it_should_be() {
    let allowed: BTreeSet<&str> = BTreeSet::from([
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "ARCHITECTURE.md",
        "deny.toml",
        "agent",
        "relay",
        "gateway",
        "certs",
        "tests",
        "target",
    ]);
    for entry in fs::read_dir(workspace_folder()).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(
            name.starts_with('.') || allowed.contains(name.as_str()),
            "{name} has no place at the top level"
        );
    }
}

/// Lines up to the tests at the end of a file.
fn code_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && pair[1].contains("mod ") && pair[1].ends_with('{')
    });
    tests.unwrap_or(lines.len())
}

#[test]
fn a_file_is_one_idea_of_at_most_400_lines() {
    let too_long: Vec<String> = LAYERS
        .iter()
        .flat_map(|(folder, _, _)| files(&workspace_folder().join(folder).join("src"), ".rs"))
        .filter(|path| path.file_name().is_some_and(|name| name != "tests.rs"))
        .filter_map(|path| {
            let lines = code_lines(&read(&path));
            (lines > MAX_FILE_LINES).then(|| format!("{} has {lines} lines", shown(&path)))
        })
        .collect();
    assert!(too_long.is_empty(), "{too_long:#?}");
}

/// The names of `[dependencies]`.
fn dependencies(manifest: &str) -> Vec<String> {
    let start = manifest.find("[dependencies]").unwrap_or(manifest.len());
    let lines = manifest[start..]
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn manifests_prove_the_layers() {
    for (folder, ours, banned) in LAYERS {
        for name in dependencies(&read(&workspace_folder().join(folder).join("Cargo.toml"))) {
            assert!(
                !name.starts_with("culvert-") || ours.contains(&name.as_str()),
                "{folder} must not use {name}"
            );
            assert!(
                !banned.contains(&name.as_str()),
                "the layer of {folder} has no {name}"
            );
        }
    }
}

/// The crates that `deny.toml` bans.
fn banned_crates() -> Vec<String> {
    let text = read(&workspace_folder().join("deny.toml"));
    let list = text
        .lines()
        .find_map(|line| line.strip_prefix("deny = ["))
        .expect("deny.toml bans crates");
    list.split("name = \"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect()
}

/// `cargo deny check` says more, but is not on every machine; these two rules must hold on all.
#[tokio::test]
async fn the_dependency_tree_has_one_tls_stack_and_one_source() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--workspace", "--all-features"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(workspace_folder())
        .output()
        .await
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&tree.stdout);
    let mut names = text.lines().filter_map(|line| line.split(' ').next());
    assert!(names.clone().any(|name| name == "rustls"), "{tree:?}");
    let banned = banned_crates();
    assert!(banned.iter().any(|name| name == "ring"), "{banned:?}");
    let found = names.find(|name| banned.iter().any(|banned| banned == name));
    assert_eq!(found, None, "a crate that deny.toml bans");

    let lock = read(&workspace_folder().join("Cargo.lock"));
    for line in lock.lines().filter(|line| line.starts_with("source = ")) {
        assert!(line.starts_with("source = \"registry+"), "{line}");
    }
}

#[test]
fn every_crate_takes_its_versions_and_lints_from_the_workspace() {
    for (folder, _, _) in LAYERS {
        let manifest = read(&workspace_folder().join(folder).join("Cargo.toml"));
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{folder} has the lints of the workspace"
        );
        for line in manifest
            .lines()
            .skip_while(|line| !line.starts_with("[dependencies]"))
            .take_while(|line| !line.starts_with("[["))
        {
            let pinned =
                line.contains('=') && !line.contains("workspace = true") && !line.starts_with('[');
            assert!(
                !pinned || line.starts_with("required-features"),
                "{folder}: {line} names its own version"
            );
        }
    }
}

#[test]
fn the_pure_layer_reads_no_clock_socket_file_task_or_chance() {
    let wire = workspace_folder().join("relay/wire/src");
    for path in files(&wire, ".rs") {
        let text = read(&path);
        let code = &text[..text.find("#[cfg(test)]").unwrap_or(text.len())];
        for banned in [
            "Instant::now",
            "SystemTime",
            "std::net",
            "std::fs",
            "std::thread",
            "std::env",
            "tokio",
            "async fn",
            "rand::",
        ] {
            let used = code
                .lines()
                .any(|line| !line.trim_start().starts_with("//") && line.contains(banned));
            assert!(!used, "{}: {banned}", shown(&path));
        }
    }
}

#[test]
fn one_word_per_thing() {
    for (folder, _, _) in LAYERS {
        for path in files(&workspace_folder().join(folder), ".rs") {
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            assert!(
                !["utils", "util", "helpers", "helper", "common_utils", "misc"]
                    .contains(&name.as_str()),
                "{}",
                shown(&path)
            );
            if path.ends_with("e2e/tidy.rs") {
                continue;
            }
            for (number, line) in read(&path).lines().enumerate() {
                for banned in [
                    "TODO",
                    "FIXME",
                    "XXX",
                    "HACK",
                    "struct Manager",
                    "Manager {",
                    "Helper {",
                ] {
                    assert!(
                        !line.contains(banned),
                        "{}:{}: {banned}",
                        shown(&path),
                        number + 1
                    );
                }
            }
        }
    }
}

#[test]
fn every_rust_file_says_what_it_is() {
    for (folder, _, _) in LAYERS {
        for path in files(&workspace_folder().join(folder).join("src"), ".rs") {
            if path.file_name().is_some_and(|name| name == "tests.rs") {
                continue;
            }
            assert!(
                read(&path).trim_start().starts_with("//!"),
                "{} does not begin with what it is",
                shown(&path)
            );
        }
    }
}

/// Every document, with the folder that it lies in.
fn documents_and_folders() -> Vec<(PathBuf, String)> {
    let mut paths = files(&workspace_folder(), "README.md");
    paths.push(workspace_folder().join("ARCHITECTURE.md"));
    paths
        .into_iter()
        .map(|path| (path.parent().unwrap_or(&path).to_owned(), read(&path)))
        .collect()
}

fn documents() -> String {
    documents_and_folders()
        .into_iter()
        .map(|(_, text)| text)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn files_that_the_documents_name_exist() {
    for (folder, text) in documents_and_folders() {
        for word in text.split(['`', '(', ')', ' ', '\n', ',']) {
            let looks_like_a_path = LAYERS
                .iter()
                .any(|(folder, _, _)| word.starts_with(&format!("{folder}/")))
                && word.ends_with(".rs")
                && !word.contains(['{', '*', '<']);
            let there = workspace_folder().join(word).exists() || folder.join(word).exists();
            assert!(
                !looks_like_a_path || there,
                "the documents name {word}, which is not there"
            );
        }
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', '#']).next())
        {
            let relative = !link.is_empty() && !link.contains(['[', '{', ':', ' ']);
            assert!(
                !relative || folder.join(link).exists(),
                "{}: the link {link} leads nowhere",
                folder.display()
            );
        }
    }
}

#[test]
fn every_code_that_a_caller_may_see_is_documented() {
    let documents = documents();
    for code in CallerCode::ALL.map(CallerCode::name) {
        assert!(
            documents.contains(&format!("`{code}`")),
            "{code} is not documented"
        );
    }
}

/// The long flags of a program and of all its verbs, as its help says.
async fn flags(program: &str) -> BTreeSet<String> {
    let path = Programs::built().await.unwrap().path(program);
    let mut flags = BTreeSet::new();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(verb) = open.pop() {
        let output = Command::new(&path)
            .args(&verb)
            .arg("--help")
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{program} {verb:?} --help: {text}");
        flags.extend(long_flags(&text));
        let verbs = text.split("Commands:\n").nth(1).unwrap_or_default();
        for line in verbs.lines().take_while(|line| line.starts_with("  ")) {
            let name = line.split_whitespace().next().unwrap_or_default();
            if line.starts_with("  ")
                && !line.starts_with("   ")
                && name != "help"
                && verb.len() < 2
            {
                open.push(verb.iter().cloned().chain([name.to_owned()]).collect());
            }
        }
    }
    flags
}

/// `--something` in a text.
fn long_flags(text: &str) -> BTreeSet<String> {
    text.split("--")
        .skip(1)
        .map(|rest| {
            rest.chars()
                .take_while(|letter| letter.is_ascii_lowercase() || *letter == '-')
                .collect::<String>()
        })
        .filter(|name| name.len() > 1 && !name.starts_with('-'))
        .map(|name| format!("--{}", name.trim_end_matches('-')))
        .collect()
}

#[tokio::test]
async fn flags_and_documents_agree() {
    let documents = documents();
    let mut known = BTreeSet::from(["--help".to_owned(), "--version".to_owned()]);
    for program in ["culvert-agent", "culvert-gateway"] {
        known.extend(flags(program).await);
    }
    for line in documents.lines() {
        let commands = ["culvert-agent ", "culvert-gateway "]
            .into_iter()
            .filter_map(|program| line.split_once(program));
        for flag in commands.flat_map(|(_, command)| long_flags(command)) {
            assert!(
                known.contains(&flag),
                "the documents name {flag}, which no program has: {line}"
            );
        }
    }
    for flag in known
        .iter()
        .filter(|flag| !["--help", "--version"].contains(&flag.as_str()))
    {
        assert!(
            documents.contains(flag.as_str()),
            "{flag} is not documented"
        );
    }
}

#[test]
fn the_counting_of_lines_stops_at_the_tests() {
    assert_eq!(code_lines("a\nb\n#[cfg(test)]\nmod tests {\n c\n}\n"), 2);
    assert_eq!(code_lines("a\nb\n"), 2);
    assert_eq!(
        long_flags("run --join TOKEN --state-dir=X, `--once`."),
        BTreeSet::from(["--join".into(), "--state-dir".into(), "--once".into()])
    );
}
