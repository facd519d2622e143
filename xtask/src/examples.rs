// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Builds and runs the examples of the libraries as their readers do: copied into an
//! empty package that depends on the libraries.
//!
//! An example that needs a file or a test package of this repository does not build
//! there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::lab::cache;
use crate::publish::packages::Packages;
use crate::shell::{capture, cargo, must, root};

/// The time limit of an example, in seconds.
const SECONDS: &str = "60";

/// An example: its files, by their path in `src/bin`.
#[derive(Debug)]
struct Example {
    name: String,
    files: BTreeMap<String, String>,
}

/// Builds the examples of the libraries and runs each of them. They must succeed, with
/// or without a KVM, and say what they did.
///
/// # Errors
/// An example does not build, fails, or prints nothing.
pub fn run() -> Result<(), String> {
    let start = Instant::now();
    let packages = Packages::of_workspace()?;
    let packages = packages.in_order()?.into_iter();
    let libraries: Vec<&str> = packages.map(|package| package.name.as_str()).collect();
    let mut metadata = Command::new(cargo());
    metadata.args(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata = capture(metadata.current_dir(root()))?;
    let metadata = serde_json::from_str(&metadata).map_err(|error| error.to_string())?;
    let mut examples = Vec::new();
    for library in &libraries {
        examples.extend(of(&root().join("crates").join(library).join("examples"))?);
    }

    let mut names: Vec<&str> = examples.iter().map(|example| &*example.name).collect();
    names.sort_unstable();
    if let Some(both) = names.windows(2).find(|both| both[0] == both[1]) {
        return Err(format!("two examples have the name {}", both[0]));
    }

    let target = root().join("target").join("examples");
    let package = target.join("package");
    let programs = package.join("src").join("bin");
    // An example that was renamed.
    let _ = fs::remove_dir_all(&programs);
    let files = || examples.iter().flat_map(|example| &example.files);
    for (place, text) in files() {
        write(&programs.join(place), text)?;
    }
    let code: String = files().map(|(_, text)| text.as_str()).collect();
    let manifest = manifest(&metadata, &libraries, &code);
    write(&package.join("Cargo.toml"), &manifest)?;
    // The same versions as in the workspace, which have been downloaded.
    let lock = fs::copy(root().join("Cargo.lock"), package.join("Cargo.lock"));
    lock.map_err(|error| format!("Cargo.lock: {error}"))?;

    let mut build = Command::new(cargo());
    build.args(["build", "--offline", "--target-dir"]);
    build.arg(&target).current_dir(&package);
    must(build.env("RUSTFLAGS", "-D warnings"))?;
    for Example { name, .. } in &examples {
        let mut program = Command::new("timeout");
        program.arg(SECONDS).arg(target.join("debug").join(name));
        let output = capture(&mut program).map_err(|error| format!("example {name}: {error}"))?;
        let last = output.lines().last();
        let last = last.ok_or_else(|| format!("example {name} prints nothing"))?;
        eprintln!("xtask: example {name}: ok: {}", last.trim());
    }
    let seconds = start.elapsed().as_secs();
    eprintln!("xtask: {} examples: ok ({seconds} s)", examples.len());
    Ok(())
}

/// The examples in a folder: files, and folders of files.
fn of(folder: &Path) -> Result<Vec<Example>, String> {
    let mut examples = Vec::new();
    for (name, path) in entries(folder) {
        let mut files = BTreeMap::new();
        if path.is_dir() {
            for (file, path) in entries(&path) {
                files.insert(format!("{name}/{file}"), read(&path)?);
            }
        } else {
            files.insert(name.clone(), read(&path)?);
        }
        let name = name.trim_end_matches(".rs").to_string();
        examples.push(Example { name, files });
    }
    Ok(examples)
}

/// The files and folders of a folder, by name. Nothing if there is no such folder.
fn entries(folder: &Path) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path()));
    named.collect()
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| cache::at(path, &error))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    path.parent().map_or(Ok(()), cache::make_folder)?;
    cache::write(path, text.as_bytes())
}

/// The manifest of the package: the libraries with all features, and what they and
/// their tests take from the registry, as far as `code` names it.
fn manifest(metadata: &Value, libraries: &[&str], code: &str) -> String {
    let mut all: BTreeMap<&str, Dependency> = BTreeMap::new();
    for package in list(&metadata["packages"]) {
        let name = text(&package["name"]);
        if !libraries.contains(&name) {
            continue;
        }
        let library = all.entry(name).or_default();
        let folder = Path::new(text(&package["manifest_path"])).parent();
        library.source = json!({ "path": folder });
        let features = package["features"].as_object();
        library
            .features
            .extend(features.into_iter().flat_map(|all| all.keys().cloned()));
        for dependency in list(&package["dependencies"]) {
            if !dependency["path"].is_null() {
                continue;
            }
            let entry = all.entry(text(&dependency["name"])).or_default();
            entry.source = json!({ "version": dependency["req"] });
            entry.default_features |= dependency["uses_default_features"] == true;
            let features = list(&dependency["features"]);
            entry
                .features
                .extend(features.iter().map(|feature| text(feature).to_string()));
        }
    }
    let named = all.into_iter().filter(|(name, _)| {
        let path = format!("{}::", name.replace('-', "_"));
        code.contains(&path)
    });
    let lines = named.map(|(name, dependency)| {
        let Dependency { source, features, default_features } = dependency;
        let features = Vec::from_iter(features);
        let source = source.as_object().into_iter().flatten();
        let source: String = source.map(|(key, value)| format!("{key} = {value}, ")).collect();
        format!(
            "{name} = {{ {source}default-features = {default_features}, features = {features:?} }}\n"
        )
    });
    std::iter::once(MANIFEST.to_string()).chain(lines).collect()
}

/// A dependency of the package.
#[derive(Debug, Default)]
struct Dependency {
    source: Value,
    features: BTreeSet<String>,
    default_features: bool,
}

/// The package is not part of the workspace around it.
const MANIFEST: &str = "\
[workspace]

[package]
name = \"examples\"
edition = \"2024\"

[profile.dev]
debug = false

[dependencies]
";

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_has_the_libraries_and_their_registry_dependencies() {
        let dependency = |name: &str, path: Option<&str>, default: bool, features: &[&str]| {
            json!({
                "name": name, "path": path, "req": "^1", "features": features,
                "uses_default_features": default,
            })
        };
        let metadata = json!({ "packages": [
            {
                "name": "one", "manifest_path": "/r/one/Cargo.toml", "features": { "a": [], "b": [] },
                "dependencies": [
                    dependency("two", Some("/r/two"), true, &[]),
                    dependency("libc", None, false, &["x"]),
                    dependency("proptest", None, true, &[]),
                ],
            },
            {
                "name": "two", "manifest_path": "/r/two/Cargo.toml", "features": {},
                "dependencies": [
                    dependency("support", Some("/r/support"), true, &[]),
                    dependency("libc", None, true, &["y"]),
                ],
            },
            { "name": "support", "manifest_path": "/r/support/Cargo.toml", "dependencies": [] },
        ] });
        let code = "use one::A; fn f() { libc::exit(two::b()) }";
        let written = manifest(&metadata, &["one", "two"], code);
        assert_eq!(
            written.strip_prefix(MANIFEST).unwrap(),
            "libc = { version = \"^1\", default-features = true, features = [\"x\", \"y\"] }\n\
             one = { path = \"/r/one\", default-features = false, features = [\"a\", \"b\"] }\n\
             two = { path = \"/r/two\", default-features = false, features = [] }\n"
        );
    }
}
