// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks that `kvm-slots` is usable without `memory-model`, by a package that
//! uses it so.
//!
//! In a build of the whole workspace, `kvm-slots` has the features that other
//! packages request. So the package is built by itself.

use std::process::Command;

use crate::shell::{Step, capture, cargo, root};

/// The package, the crate that it must use, and the one that it must not.
const PACKAGE: &str = "own-model";
const WITH: &str = "kvm-slots";
const WITHOUT: &str = "memory-model";

/// What `kvm-slots` does without where no feature asks for it.
const OPTIONAL: &str = "memmap2";

/// Checks all dependencies of the package, including those of its tests, and those
/// of `kvm-slots` without features.
pub fn check() -> Result<(), String> {
    let libraries = tree(&["-p", PACKAGE, "-e", "normal,build,dev"])?;
    depends_as_it_should(&libraries)?;
    eprintln!("xtask: {PACKAGE}: ok (does without {WITHOUT})");
    let libraries = tree(&["-p", WITH, "--no-default-features", "-e", "normal,build"])?;
    if contains(&libraries, OPTIONAL) {
        return Err(format!("{WITH} without features depends on {OPTIONAL}"));
    }
    eprintln!("xtask: {WITH}: ok (without features, does without {OPTIONAL})");
    Ok(())
}

/// The libraries of a dependency tree, one per line.
fn tree(selection: &[&str]) -> Result<String, String> {
    let mut command = Command::new(cargo());
    command.arg("tree").args(selection);
    command.args(["--prefix", "none", "--format", "{lib}"]);
    capture(command.current_dir(root()))
}

fn contains(libraries: &str, name: &str) -> bool {
    let name = name.replace('-', "_");
    let mut names = libraries.lines().map(|line| line.split_whitespace().next());
    names.any(|first| first == Some(&name))
}

/// Runs the package's tests by themselves, so that nothing else requests
/// features.
pub fn steps() -> Vec<Step> {
    let name = "tests without memory-model";
    vec![Step::cargo(name, &["test", "-p", PACKAGE])]
}

/// `libraries` has the names of all dependencies, one per line.
fn depends_as_it_should(libraries: &str) -> Result<(), String> {
    let is = |name: &str| contains(libraries, name);
    match (is(WITH), is(WITHOUT)) {
        (true, false) => Ok(()),
        (_, true) => Err(format!("{PACKAGE} depends on {WITHOUT}")),
        (false, _) => Err(format!("{PACKAGE} does not depend on {WITH}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{contains, depends_as_it_should};

    #[test]
    fn a_dependency_is_found_by_its_whole_name() {
        let libraries = "kvm_slots\nmemmap2 (*)\n";
        assert!(contains(libraries, "memmap2") && contains(libraries, "kvm-slots"));
        assert!(!contains(libraries, "memmap"));
    }

    #[test]
    fn a_package_that_depends_on_the_memory_model_is_reported() {
        let good = "own_model\nkvm_slots\nlibc (*)\n";
        assert_eq!(depends_as_it_should(good), Ok(()));
        let bad = format!("{good}memory_model (*)\n");
        let said = Err("own-model depends on memory-model".to_string());
        assert_eq!(depends_as_it_should(&bad), said);
        assert!(depends_as_it_should("own_model\n").is_err());
    }
}
