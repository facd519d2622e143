// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks that `kvm-slots` is usable without `memory-model`, by a package that
//! uses it so.
//!
//! In a build of the whole workspace, `kvm-slots` has the features that other
//! packages request. So the package is built by itself.

use std::process::Command;

use crate::shell::{Step, cargo, root};

/// The package, the crate that it must use, and the one that it must not.
const PACKAGE: &str = "own-model";
const WITH: &str = "kvm-slots";
const WITHOUT: &str = "memory-model";

/// Checks all dependencies of the package, including those of its tests.
pub fn check() -> Result<(), String> {
    let mut command = Command::new(cargo());
    command.args(["tree", "-p", PACKAGE, "-e", "normal,build,dev"]);
    command.args(["--prefix", "none", "--format", "{lib}"]);
    let output = command.current_dir(root()).output();
    let output = output.map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo tree: {}", why.trim()));
    }
    depends_as_it_should(&String::from_utf8_lossy(&output.stdout))?;
    eprintln!("xtask: {PACKAGE}: ok (does without {WITHOUT})");
    Ok(())
}

/// Runs the package's tests by themselves, so that nothing else requests
/// features.
pub fn steps() -> Vec<Step> {
    let name = "tests without memory-model";
    vec![Step::cargo(name, &["test", "-p", PACKAGE])]
}

/// `libraries` has the names of all dependencies, one per line.
fn depends_as_it_should(libraries: &str) -> Result<(), String> {
    let is = |name: &str| {
        let name = name.replace('-', "_");
        libraries
            .lines()
            .any(|line| line.split_whitespace().next() == Some(&name))
    };
    match (is(WITH), is(WITHOUT)) {
        (true, false) => Ok(()),
        (_, true) => Err(format!("{PACKAGE} depends on {WITHOUT}")),
        (false, _) => Err(format!("{PACKAGE} does not depend on {WITH}")),
    }
}

#[cfg(test)]
mod tests {
    use super::depends_as_it_should;

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
