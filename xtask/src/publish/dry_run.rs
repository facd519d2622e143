// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A dry run of publishing: everything but the upload.
//!
//! Cargo packages each library, builds it from its package, and provides it to the
//! next through a registry of its own. The registry folder (`CARGO_HOME`) starts
//! empty, so a dependency that only this machine has is noticed.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::packages::{Package, Packages};
use crate::shell::{cargo, root};
use crate::tidy::rust_files;

/// Publishes the libraries in their order, without uploading them.
///
/// # Errors
/// One cannot be packaged or does not build, or Cargo warns.
pub fn run(packages: &Packages) -> Result<(), String> {
    let start = Instant::now();
    let order = packages.in_order()?;
    let names: Vec<&str> = order.iter().map(|package| package.name.as_str()).collect();
    eprintln!("xtask: publish: in this order: {}", names.join(", "));
    let folder = clean_folder(&order)?;
    let mut command = Command::new(cargo());
    // Changes that are not committed are checked, too.
    command.args(["publish", "--dry-run", "--locked", "--allow-dirty"]);
    command.arg("--target-dir").arg(folder.join("target"));
    for name in &names {
        command.args(["-p", name]);
    }
    command.env("CARGO_HOME", folder.join("home"));
    // Warnings are found by their text.
    command.env("CARGO_TERM_COLOR", "never");
    command.env_remove("RUSTUP_TOOLCHAIN").current_dir(root());
    let warnings = warnings_of(&mut command)?;
    let unexpected: Vec<&String> = warnings.iter().filter(|line| !is_expected(line)).collect();
    if !unexpected.is_empty() {
        return Err(format!("cargo publish warns: {unexpected:#?}"));
    }
    let seconds = start.elapsed().as_secs();
    eprintln!("xtask: publish: dry run: ok ({seconds} s)");
    Ok(())
}

/// A folder for this content: `home`, the registry folder, and `target`.
///
/// Cargo caches its own registry by the target folder, not by content, so a second
/// run would build against the libraries of the first. So the folder is named after
/// the content, and folders of earlier content are deleted.
fn clean_folder(order: &[&Package]) -> Result<PathBuf, String> {
    let mut hasher = DefaultHasher::new();
    let manifests = order.iter().map(|package| package.manifest_path.clone());
    let others = ["Cargo.toml", "Cargo.lock"].map(|name| root().join(name));
    let files = rust_files(&["crates"]).into_iter();
    for file in files.chain(manifests).chain(others) {
        (&file, fs::read(&file).unwrap_or_default()).hash(&mut hasher);
    }
    let all = root().join("target").join("packages");
    let folder = all.join(format!("{:016x}", hasher.finish()));
    if !folder.exists() {
        let _ = fs::remove_dir_all(&all);
    }
    let home = folder.join("home");
    fs::create_dir_all(&home).map_err(|e| format!("{}: {e}", home.display()))?;
    // Where the registry is reached through a mirror, this names it.
    if let Some(home_of_user) = cargo_home() {
        for name in ["config.toml", "config"] {
            let _ = fs::copy(home_of_user.join(name), home.join(name));
        }
    }
    Ok(folder)
}

/// The user's registry folder.
fn cargo_home() -> Option<PathBuf> {
    let named = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    named.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")))
}

/// Runs the command, shows what it prints, and returns its warnings.
fn warnings_of(command: &mut Command) -> Result<Vec<String>, String> {
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| format!("cargo publish: {e}"))?;
    let mut warnings = Vec::new();
    for line in child.stderr.take().into_iter().map(BufReader::new) {
        for line in line.lines().map_while(Result::ok) {
            eprintln!("{line}");
            if line.starts_with("warning") {
                warnings.push(line);
            }
        }
    }
    let status = child.wait().map_err(|e| format!("cargo publish: {e}"))?;
    match status.success() {
        true => Ok(warnings),
        false => Err(format!("cargo publish --dry-run failed ({status})")),
    }
}

/// Two warnings say what we ask for. The tests of the libraries are not in their
/// packages, because they use packages and files of the workspace. A dry run does
/// not upload.
fn is_expected(warning: &str) -> bool {
    let is_test = warning.starts_with("warning: ignoring test `")
        && warning.ends_with(" is not included in the published package");
    is_test || warning == "warning: aborting upload due to dry run"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_warnings_that_say_what_was_asked_for_are_expected() {
        let test = "warning: ignoring test `it` as `tests/it/main.rs` is not included in the \
                    published package";
        assert!(is_expected(test));
        assert!(is_expected("warning: aborting upload due to dry run"));
        assert!(!is_expected(
            "warning: manifest has no documentation, homepage or repository"
        ));
        let example = test.replace("test `it`", "example `it`");
        assert!(!is_expected(&example));
        assert!(!is_expected("warning: unused variable: `x`"));
    }

    #[test]
    fn warnings_are_returned_and_a_failure_is_an_error() {
        let shell = |script: &str| warnings_of(Command::new("sh").args(["-c", script]));
        let script = "echo 'warning: a' >&2; echo b >&2; echo 'warning: out'";
        assert_eq!(shell(script), Ok(vec!["warning: a".to_string()]));
        assert!(shell("exit 3").is_err());
    }
}
