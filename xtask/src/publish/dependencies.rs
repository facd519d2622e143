// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Licences and sources of everything in `Cargo.lock`.
//!
//! This is what cargo-deny checks with `deny.toml`, except for advisories, which
//! need a database from the network. It needs no other program. A test keeps the
//! list of licences the same in both.

use std::collections::BTreeMap;
use std::process::Command;

use super::expression::is_satisfied;
use super::packages::{Package, Packages};
use crate::shell::{Step, capture, cargo, root, run_all, succeeds};

/// Licences of dependencies. All of them permit use in a VMM of any licence.
const ALLOWED: [&str; 6] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-3-Clause",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// The only place where dependencies come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks licences and sources, lists packages with several versions, and runs
/// cargo-deny if it is installed.
pub fn check(packages: &Packages) -> Result<(), String> {
    let faults: Vec<String> = packages.packages.iter().filter_map(fault).collect();
    if !faults.is_empty() {
        return Err(format!("dependencies:\n  {}", faults.join("\n  ")));
    }
    for line in duplicates(packages) {
        eprintln!("xtask: dependencies: note: {line}");
    }
    let count = packages.packages.len();
    eprintln!("xtask: dependencies: ok ({count} packages: licences and sources)");
    cargo_deny()
}

/// What is wrong with a package.
fn fault(package: &Package) -> Option<String> {
    let Package { name, version, .. } = package;
    let about = |what: String| Some(format!("{name} {version}: {what}"));
    match package.source.as_deref() {
        None | Some(REGISTRY) => {}
        Some(other) => return about(format!("comes from {other}")),
    }
    let Some(licence) = &package.license else {
        return about("states no licence".into());
    };
    match is_satisfied(licence, &ALLOWED) {
        Ok(true) => None,
        Ok(false) => about(format!("its licence is not on the list: {licence}")),
        Err(error) => about(error),
    }
}

/// Dependencies of which several versions are built.
fn duplicates(packages: &Packages) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in &packages.packages {
        let all = versions.entry(&package.name).or_default();
        all.push(&package.version);
    }
    let several = versions.into_iter().filter(|(_, all)| all.len() > 1);
    let line = |(name, all): (&str, Vec<&str>)| format!("{name} has versions {}", all.join(", "));
    several.map(line).collect()
}

/// Runs cargo-deny, if it is installed: all its checks if the database of
/// advisories is there or can be fetched, and otherwise the others.
fn cargo_deny() -> Result<(), String> {
    if !succeeds(&cargo(), &["deny", "--version"]) {
        eprintln!(
            "xtask: cargo-deny: SKIPPED: it is not installed (cargo install cargo-deny), so \
             advisories are not checked; licences and sources are, above"
        );
        return Ok(());
    }
    let mut fetch = Command::new(cargo());
    fetch.args(["deny", "fetch", "db"]).current_dir(root());
    let mut checks = vec!["bans", "licenses", "sources"];
    match capture(&mut fetch) {
        Ok(_) => checks.push("advisories"),
        Err(error) => eprintln!(
            "xtask: cargo-deny: advisories: SKIPPED: their database cannot be fetched: {error}"
        ),
    }
    let arguments = ["deny", "--all-features", "check", "--hide-inclusion-graph"];
    run_all(&[Step::cargo("cargo-deny", &arguments).with(&checks)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, licence: Option<&str>) -> Package {
        Package {
            name: name.into(),
            version: version.into(),
            source: Some(REGISTRY.into()),
            license: licence.map(Into::into),
            ..Package::default()
        }
    }

    #[test]
    fn a_licence_that_is_not_on_the_list_is_a_fault() {
        assert_eq!(fault(&package("a", "1.0.0", Some("MIT"))), None);
        let fault = |licence| fault(&package("a", "1.0.0", licence)).unwrap();
        let listed = "a 1.0.0: its licence is not on the list: GPL-2.0-only";
        assert_eq!(fault(Some("GPL-2.0-only")), listed);
        assert_eq!(fault(None), "a 1.0.0: states no licence");
        assert!(fault(Some("MIT OR")).contains("no SPDX expression"));
    }

    #[test]
    fn a_dependency_from_elsewhere_than_the_registry_is_a_fault() {
        let mut package = package("a", "1.0.0", Some("MIT"));
        package.source = Some("git+https://example.org/a".into());
        let fault = fault(&package).unwrap();
        assert_eq!(fault, "a 1.0.0: comes from git+https://example.org/a");
    }

    #[test]
    fn several_versions_of_a_dependency_are_listed() {
        let packages = Packages {
            packages: vec![
                package("a", "1.0.0", Some("MIT")),
                package("b", "1.0.0", Some("MIT")),
                package("a", "2.0.0", Some("MIT")),
            ],
        };
        assert_eq!(duplicates(&packages), ["a has versions 1.0.0, 2.0.0"]);
    }

    #[test]
    fn deny_toml_allows_the_same_licences() {
        let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
        let (_, list) = text.split_once("allow = [").unwrap();
        let (list, _) = list.split_once(']').unwrap();
        let list = list.split(',').map(|word| word.trim().trim_matches('"'));
        let list: Vec<&str> = list.filter(|word| !word.is_empty()).collect();
        assert_eq!(list, ALLOWED);
    }
}
