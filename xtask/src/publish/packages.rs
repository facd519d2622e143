// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The packages of the workspace and of its dependencies, as Cargo describes
//! them, and the order in which ours are published.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use crate::shell::{capture, cargo, root};

/// What `cargo metadata` prints, as far as it is used here.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Packages {
    /// The workspace's packages, and all that they depend on if that was asked for.
    pub packages: Vec<Package>,
}

/// One package.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// Where it comes from. Packages of the workspace have no source.
    pub source: Option<String>,
    pub license: Option<String>,
    pub manifest_path: PathBuf,
    /// The registries that it may go to. `None` is any, `[]` is none.
    pub publish: Option<Vec<String>>,
    pub dependencies: Vec<Dependency>,
    pub description: Option<String>,
    pub documentation: Option<String>,
    pub homepage: Option<String>,
    pub repository: Option<String>,
    pub readme: Option<PathBuf>,
    pub rust_version: Option<String>,
    pub keywords: Vec<String>,
    pub categories: Vec<String>,
    /// The table `package.metadata`.
    pub metadata: Value,
}

/// A dependency, as the manifest declares it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Dependency {
    pub name: String,
    /// The versions that it accepts.
    pub req: String,
    /// Its folder, for a package of the workspace.
    pub path: Option<PathBuf>,
}

impl Packages {
    /// The workspace's packages. Needs no network.
    pub fn of_workspace() -> Result<Self, String> {
        Self::read(&["--no-deps"])
    }

    /// Also everything in `Cargo.lock`, for all platforms. Cargo downloads what is not
    /// there yet.
    pub fn with_dependencies() -> Result<Self, String> {
        Self::read(&["--all-features"])
    }

    fn read(arguments: &[&str]) -> Result<Self, String> {
        let mut command = Command::new(cargo());
        command.args(["metadata", "--format-version", "1", "--locked"]);
        command.args(arguments);
        let text = capture(command.current_dir(root()))?;
        serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))
    }

    /// The packages that can be published, each after those that it depends on.
    pub fn in_order(&self) -> Result<Vec<&Package>, String> {
        let ours = self.packages.iter();
        let mut left: Vec<&Package> = ours.filter(|package| package.is_published()).collect();
        left.sort_by_key(|package| &package.name);
        let mut order = Vec::new();
        while !left.is_empty() {
            let needs = |package: &Package, other: &Package| package.needs(&other.name);
            let ready = |package: &&Package| !left.iter().any(|other| needs(package, other));
            let Some(next) = left.iter().position(ready) else {
                let names: Vec<&str> = left.iter().map(|package| package.name.as_str()).collect();
                return Err(format!("these need each other: {}", names.join(", ")));
            };
            order.push(left.remove(next));
        }
        Ok(order)
    }
}

impl Package {
    /// Whether it belongs to the workspace and may go to a registry.
    pub fn is_published(&self) -> bool {
        self.source.is_none() && self.publish.as_ref().is_none_or(|names| !names.is_empty())
    }

    /// Whether another package of the workspace must be in the registry first.
    /// Cargo drops development dependencies that state only a path.
    fn needs(&self, other: &str) -> bool {
        let mut ours = self.dependencies.iter();
        ours.any(|on| on.name == other && on.path.is_some() && on.req != "*")
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, needs: &[(&str, &str)]) -> Package {
        let dependencies = needs.iter().map(|(name, req)| Dependency {
            name: (*name).into(),
            req: (*req).into(),
            path: Some("there".into()),
        });
        Package {
            name: name.into(),
            dependencies: dependencies.collect(),
            ..Package::default()
        }
    }

    fn order(packages: Vec<Package>) -> Result<Vec<String>, String> {
        let packages = Packages { packages };
        let order = packages.in_order()?;
        Ok(order.into_iter().map(|p| p.name.clone()).collect())
    }

    #[test]
    fn a_package_is_published_after_those_that_it_depends_on() {
        let packages = vec![
            package("a", &[("c", "^0.1")]),
            package("b", &[("a", "^0.1"), ("c", "^0.1")]),
            package("c", &[]),
        ];
        assert_eq!(order(packages).unwrap(), ["c", "a", "b"]);
    }

    #[test]
    fn development_dependencies_by_path_do_not_count() {
        // As a package that switches its own features on for its tests.
        let packages = vec![package("a", &[("a", "*"), ("b", "*")]), package("b", &[])];
        assert_eq!(order(packages).unwrap(), ["a", "b"]);
    }

    #[test]
    fn packages_that_need_each_other_are_reported() {
        let packages = vec![
            package("a", &[("b", "^0.1")]),
            package("b", &[("a", "^0.1")]),
        ];
        let error = order(packages).unwrap_err();
        assert_eq!(error, "these need each other: a, b");
    }

    #[test]
    fn neither_private_packages_nor_dependencies_are_published() {
        let mut private = package("private", &[]);
        private.publish = Some(Vec::new());
        let mut foreign = package("foreign", &[]);
        foreign.source = Some("registry".into());
        assert!(order(vec![private, foreign]).unwrap().is_empty());
    }

    #[test]
    fn the_libraries_of_this_workspace_have_an_order() {
        let packages = Packages::of_workspace().unwrap();
        let order = packages.in_order().unwrap();
        let at = |name| order.iter().position(|package| package.name == name);
        assert_eq!(at("guest-ranges"), Some(0));
        assert!(at("memory-model") < at("kvm-slots"));
        assert!(at("kvm-slots") < at("vfio-dma"));
        assert!(at("vfio-private") < at("bar-report"));
        assert_eq!(at("vmm"), None);
    }
}
