// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a package and the repository must have before the first release.
//!
//! There are faults, which fail the check, and what is open: facts that only the
//! people who publish can state, such as the address of the repository. What is
//! open is listed, and fails the check of a release.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::packages::Package;
use crate::ci::OLDEST;
use crate::shell::root;

/// The page that says how to settle what is open.
const CHECKLIST: &str = "docs/publishing.md";

/// Files that the repository must have.
const FILES: [&str; 9] = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CODE_OF_CONDUCT.md",
    "LICENSE-APACHE",
    "LICENSE-BSD-3-Clause",
    "deny.toml",
    "coverage_config_x86_64.json",
    CHECKLIST,
];

/// Where a forge looks for the owners of code.
const CODEOWNERS: [&str; 3] = ["CODEOWNERS", ".github/CODEOWNERS", "docs/CODEOWNERS"];

/// The mark of a version in a changelog that is not released.
const UNRELEASED: &str = "(not yet released)";

/// What is wrong, and what is open.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Must be fixed now.
    pub faults: Vec<String>,
    /// Must be settled before a release.
    pub open: Vec<String>,
}

/// Checks the packages and the repository.
pub fn findings(packages: &[&Package]) -> Findings {
    let mut all = repository(&root());
    let own = packages.iter().map(|package| {
        let files = Files::of(package.folder());
        (package.name.as_str(), of_package(package, &files))
    });
    let own: Vec<(&str, Findings)> = own.collect();
    let faults = own.iter().map(|(name, own)| (*name, &own.faults));
    all.faults.extend(grouped(faults));
    all.open
        .extend(grouped(own.iter().map(|(name, own)| (*name, &own.open))));
    all
}

/// Each finding once, with the packages that have it.
fn grouped<'a>(of: impl Iterator<Item = (&'a str, &'a Vec<String>)>) -> Vec<String> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, findings) in of {
        for finding in findings {
            groups.entry(finding).or_default().push(name);
        }
    }
    let line = |(finding, names): (&str, Vec<&str>)| format!("{finding}: {}", names.join(", "));
    groups.into_iter().map(line).collect()
}

/// Prints what is open, which is an error for a release.
pub fn report(findings: &Findings, release: bool) -> Result<(), String> {
    if !findings.faults.is_empty() {
        return Err(format!("publish:\n  {}", findings.faults.join("\n  ")));
    }
    match (findings.open.is_empty(), release) {
        (true, _) => eprintln!("xtask: publish: ok (nothing is open)"),
        (false, true) => {
            let open = findings.open.join("\n  ");
            return Err(format!("open, see {CHECKLIST}:\n  {open}"));
        }
        (false, false) => {
            let count = findings.open.len();
            for open in &findings.open {
                eprintln!("xtask: publish: open: {open}");
            }
            eprintln!("xtask: publish: ok ({count} open before a release: {CHECKLIST})");
        }
    }
    Ok(())
}

fn repository(root: &Path) -> Findings {
    let is_there = |name: &str| root.join(name).is_file();
    let missing = FILES.iter().filter(|name| !is_there(name));
    let mut findings = Findings {
        faults: missing.map(|name| format!("no {name}")).collect(),
        open: Vec::new(),
    };
    if !CODEOWNERS.iter().any(|name| is_there(name)) {
        findings.open.push("no CODEOWNERS".into());
    }
    findings
}

/// The files of a package that are not code.
#[derive(Clone, Debug)]
struct Files {
    readme: String,
    changelog: String,
    /// Whether it has both licences, as they are at the root.
    licences: bool,
}

impl Files {
    fn of(folder: &Path) -> Self {
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        let same = |name: &str| {
            let original = fs::read_to_string(root().join(name)).unwrap_or_default();
            !original.is_empty() && original == text(name)
        };
        Self {
            readme: text("README.md"),
            changelog: text("CHANGELOG.md"),
            licences: same("LICENSE-APACHE") && same("LICENSE-BSD-3-Clause"),
        }
    }
}

fn of_package(package: &Package, files: &Files) -> Findings {
    let mut findings = Findings::default();
    let fault = |is_wrong: bool, what: &str, findings: &mut Findings| {
        if is_wrong {
            findings.faults.push(what.to_string());
        }
    };
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    let documentation = format!("https://docs.rs/{}", package.name);
    let heading = format!("## {}", package.version);
    let heading = files
        .changelog
        .lines()
        .find(|line| line.starts_with(&heading));
    for (is_wrong, what) in [
        (empty(&package.description), "no description"),
        (empty(&package.license), "no license"),
        (package.readme.is_none(), "no readme"),
        (!keywords_are_valid(&package.keywords), "1 to 5 keywords"),
        (
            !(1..=5).contains(&package.categories.len()),
            "1 to 5 categories",
        ),
        (
            package.documentation.as_ref() != Some(&documentation),
            "`documentation` is not its page on docs.rs",
        ),
        (
            !package.rust_version.as_deref().is_some_and(is_oldest),
            "`rust-version` is not the one that CI tests",
        ),
        (!is_documented_with_all(package), "docs.rs: all-features"),
        (!files.licences, "the licence files differ from the root's"),
        (
            !states_support(&files.readme, package.rust_version.as_deref()),
            "its README states no MSRV, platforms and stability",
        ),
        (
            heading.is_none(),
            "its CHANGELOG has no heading for its version",
        ),
    ] {
        fault(is_wrong, what, &mut findings);
    }
    for (is_open, what) in [
        (empty(&package.repository), "no `repository`"),
        (empty(&package.homepage), "no `homepage`"),
        (
            heading.is_some_and(|line| line.contains(UNRELEASED)),
            "its CHANGELOG says that this version is not released",
        ),
    ] {
        if is_open {
            findings.open.push(what.to_string());
        }
    }
    findings
}

/// What the registry takes: up to 5 words of up to 20 letters, digits and dashes.
fn keywords_are_valid(words: &[String]) -> bool {
    let is_valid = |word: &String| {
        let may = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        word.len() <= 20
            && word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.chars().all(may)
    };
    (1..=5).contains(&words.len()) && words.iter().all(is_valid)
}

/// `OLDEST` names a toolchain, so it has a third number.
fn is_oldest(version: &str) -> bool {
    OLDEST == version || OLDEST == format!("{version}.0")
}

/// Whether docs.rs shows every feature.
fn is_documented_with_all(package: &Package) -> bool {
    package.metadata["docs"]["rs"]["all-features"] == Value::Bool(true)
}

/// Whether a README has the table of what is supported, with the right version.
fn states_support(readme: &str, oldest: Option<&str>) -> bool {
    let row = |start: String| readme.lines().any(|line| line.starts_with(&start));
    let oldest = oldest.unwrap_or_default();
    row(format!("| MSRV | {oldest}")) && row("| platforms |".into()) && row("| stability |".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> Package {
        let text = |text: &str| Some(text.to_string());
        Package {
            name: "a".into(),
            version: "0.1.0".into(),
            license: text("MIT"),
            description: text("Adds"),
            documentation: text("https://docs.rs/a"),
            homepage: text("https://example.org"),
            repository: text("https://example.org/a"),
            readme: Some("README.md".into()),
            rust_version: text("1.85"),
            keywords: vec!["kvm".into()],
            categories: vec!["virtualization".into()],
            metadata: serde_json::json!({"docs": {"rs": {"all-features": true}}}),
            ..Package::default()
        }
    }

    fn files() -> Files {
        Files {
            readme: "| MSRV | 1.85 |\n| platforms | Linux |\n| stability | 0.1 |\n".into(),
            changelog: "# Changelog\n\n## 0.1.0\n".into(),
            licences: true,
        }
    }

    #[test]
    fn a_complete_package_has_no_findings() {
        assert_eq!(of_package(&package(), &files()), Findings::default());
    }

    #[test]
    fn an_incomplete_manifest_is_a_fault() {
        let faults = |change: fn(&mut Package)| {
            let mut package = package();
            change(&mut package);
            of_package(&package, &files()).faults
        };
        assert_eq!(faults(|p| p.description = None), ["no description"]);
        assert_eq!(faults(|p| p.keywords.clear()), ["1 to 5 keywords"]);
        let long = |p: &mut Package| p.keywords = vec!["x".repeat(21)];
        assert_eq!(faults(long), ["1 to 5 keywords"]);
        assert_eq!(
            faults(|p| p.metadata = Value::Null),
            ["docs.rs: all-features"]
        );
        let newer = |p: &mut Package| p.rust_version = Some("1.90".into());
        assert_eq!(faults(newer).len(), 2, "the README disagrees, too");
    }

    #[test]
    fn a_finding_of_several_packages_is_listed_once() {
        let (one, two) = (vec!["x".to_string(), "y".into()], vec!["x".to_string()]);
        let lines = grouped([("a", &one), ("b", &two)].into_iter());
        assert_eq!(lines, ["x: a, b", "y: a"]);
    }

    #[test]
    fn a_changelog_without_the_version_is_a_fault() {
        let mut files = files();
        files.changelog = "# Changelog\n\n## Upcoming Release\n".into();
        let faults = of_package(&package(), &files).faults;
        assert_eq!(faults, ["its CHANGELOG has no heading for its version"]);
    }

    #[test]
    fn what_only_its_publishers_know_is_open_and_stops_a_release() {
        let (mut package, mut files) = (package(), files());
        (package.repository, package.homepage) = (None, None);
        files.changelog = "## 0.1.0 (not yet released)\n".into();
        let found = of_package(&package, &files);
        assert_eq!((found.faults.len(), found.open.len()), (0, 3));
        assert_eq!(report(&found, false), Ok(()));
        assert!(
            report(&found, true)
                .unwrap_err()
                .contains("no `repository`")
        );
        assert_eq!(report(&Findings::default(), true), Ok(()));
    }

    #[test]
    fn a_missing_file_of_the_repository_is_a_fault_and_missing_owners_are_open() {
        let folder = tempfile::tempdir().unwrap();
        let found = repository(folder.path());
        assert_eq!(found.faults.len(), FILES.len());
        assert_eq!(found.open, ["no CODEOWNERS"]);
        fs::create_dir(folder.path().join(".github")).unwrap();
        fs::write(folder.path().join(".github/CODEOWNERS"), "* @them\n").unwrap();
        assert!(repository(folder.path()).open.is_empty());
    }
}
