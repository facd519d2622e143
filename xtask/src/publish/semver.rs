// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether a change of the public interfaces fits the change of the version: what
//! cargo-semver-checks finds against the last release.

use std::process::Command;

use super::packages::Package;
use crate::shell::{Step, capture, cargo, root, run_all, succeeds};

/// Compares the libraries with the last release. Skipped, with the reason, if there
/// is none or the tool is not installed.
pub fn check(packages: &[&Package]) -> Result<(), String> {
    let mut git = Command::new("git");
    git.args(["tag", "--list", "v*", "--sort=-version:refname"]);
    git.args(["--merged", "HEAD"]);
    // Without a repository, there are no tags.
    let tags = capture(git.current_dir(root())).unwrap_or_default();
    let is_installed = || succeeds(&cargo(), &["semver-checks", "--version"]);
    match baseline(&tags, is_installed) {
        Ok(tag) => run_all(&[step(tag, packages)]),
        Err(reason) => {
            eprintln!("xtask: semver: SKIPPED: {reason}");
            Ok(())
        }
    }
}

/// The release to compare with, or why there is no comparison. The newest tag is
/// first.
fn baseline(tags: &str, is_installed: impl Fn() -> bool) -> Result<&str, &'static str> {
    let Some(tag) = tags.lines().next() else {
        return Err("there is no release to compare with: no tag `v*`");
    };
    match is_installed() {
        true => Ok(tag),
        false => Err("it is not installed: cargo install cargo-semver-checks"),
    }
}

fn step(tag: &str, packages: &[&Package]) -> Step {
    let step = Step::cargo("semver", &["semver-checks", "--baseline-rev", tag]);
    let packages = packages.iter();
    packages.fold(step, |step, package| step.with(&["-p", &package.name]))
}

#[cfg(test)]
mod tests {
    use super::baseline;

    #[test]
    fn without_a_release_there_is_nothing_to_compare_with() {
        let reason = baseline("", || panic!("the tool is not needed")).unwrap_err();
        assert!(reason.contains("no tag `v*`"), "{reason}");
    }

    #[test]
    fn the_newest_release_is_compared_with_if_the_tool_is_installed() {
        let tags = "v0.2.0\nv0.1.0\n";
        assert_eq!(baseline(tags, || true), Ok("v0.2.0"));
        let reason = baseline(tags, || false).unwrap_err();
        assert!(reason.contains("cargo install"), "{reason}");
    }
}
