// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The test programs of the workspace, linked statically for another machine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::TEST_FEATURES;
use crate::reasons::Reasons;
use crate::shell::{Target, static_command};

/// Packages that are not tested in the lab: the developer's tools, which start
/// Cargo and compilers, and a library that programs load when they start, which
/// statically linked ones do not.
const EXCLUDED: [&str; 2] = ["xtask", "kvm-preload"];

/// The test that is a list of its own: `cargo xtask hw-test` runs it.
const HARDWARE: &str = "hardware";

/// A program with tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestProgram {
    /// Its package.
    pub package: String,
    /// The name of the target in the package.
    pub name: String,
    /// The folder of the package, in which it runs.
    pub folder: PathBuf,
    /// Its path.
    pub program: PathBuf,
}

impl TestProgram {
    /// A name for people.
    pub fn title(&self) -> String {
        format!("{} {}", self.package, self.name)
    }

    /// The test that a name such as `kvm-slots it: sim::memslots::a_test` means, if it is
    /// one of this program.
    pub fn of<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&self.title())?.strip_prefix(": ")
    }
}

/// What a build made.
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// The programs with tests.
    pub tests: Vec<TestProgram>,
    /// Programs that tests start.
    pub others: Vec<PathBuf>,
}

/// Builds the test programs.
///
/// # Errors
/// One does not build.
pub fn build(target: &Target) -> Result<Built, String> {
    eprintln!("xtask: building the tests for {}", target.triple);
    let mut command = static_command(target, "-C strip=symbols");
    // Optimized: an emulated processor takes ten times as long for the others.
    command.args(["test", "--no-run", "--workspace", "--profile", "optimized"]);
    for package in EXCLUDED {
        command.args(["--exclude", package]);
    }
    command.args(TEST_FEATURES);
    command.args(["--message-format", "json-render-diagnostics"]);
    command.stderr(std::process::Stdio::inherit());
    let output = command.output().map_err(|e| format!("cargo: {e}"))?;
    match output.status.success() {
        true => Ok(parse(&String::from_utf8_lossy(&output.stdout))),
        false => Err(format!("the tests do not build for {}", target.triple)),
    }
}

/// Reads what Cargo says of a build, a JSON object a line.
fn parse(messages: &str) -> Built {
    let mut built = Built::default();
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    for message in messages {
        let text = |name: &[&str]| {
            let found = name.iter().try_fold(&message, |value, key| value.get(key));
            found.and_then(Value::as_str).map(String::from)
        };
        let (Some(program), Some(manifest), Some(name)) = (
            text(&["executable"]),
            text(&["manifest_path"]),
            text(&["target", "name"]),
        ) else {
            continue;
        };
        let is_test = message.pointer("/profile/test").and_then(Value::as_bool);
        let folder = Path::new(&manifest).parent().unwrap_or(Path::new("/"));
        if is_test != Some(true) {
            built.others.push(program.into());
        } else if name != HARDWARE {
            built.tests.push(TestProgram {
                package: package(&text(&["package_id"]).unwrap_or_default()),
                name,
                folder: folder.into(),
                program: program.into(),
            });
        }
    }
    built
        .tests
        .sort_by(|a, b| (&a.package, &a.name).cmp(&(&b.package, &b.name)));
    built
}

/// The name in a package's id: after the hash sign and before the version, or the
/// name of the folder.
fn package(id: &str) -> String {
    let (path, fragment) = id.split_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name.into(),
        None => path.rsplit('/').next().unwrap_or(path).into(),
    }
}

/// The shell script that runs programs, without the tests in `skipped`, which names them
/// as [`TestProgram::of`] does. Each reports its begin and its end.
pub fn script(tests: &[TestProgram], skipped: &Reasons) -> String {
    let mut script = String::new();
    for (number, test) in tests.iter().enumerate() {
        let (folder, program) = (test.folder.display(), test.program.display());
        let names = skipped.iter().filter_map(|(name, _)| test.of(name));
        let skips: String = names.map(|name| format!(" --skip '{name}'")).collect();
        let _ = writeln!(
            script,
            "echo; echo '@begin {number}'\n\
             cd '{folder}' && CARGO_MANIFEST_DIR='{folder}' '{program}' --exact{skips} 2>&1\n\
             status=$?; echo; echo \"@end {number} $status\""
        );
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = r#"{"reason":"build-script-executed"}
{"reason":"compiler-artifact","package_id":"path+file:///w/crates/vmm#0.1.0","manifest_path":"/w/crates/vmm/Cargo.toml","target":{"name":"it"},"profile":{"test":true},"executable":"/w/target/it-1"}
{"reason":"compiler-artifact","package_id":"path+file:///w/crates/vmm#0.1.0","manifest_path":"/w/crates/vmm/Cargo.toml","target":{"name":"vmm"},"profile":{"test":false},"executable":"/w/target/vmm"}
{"reason":"compiler-artifact","package_id":"path+file:///w/tests#tests@0.1.0","manifest_path":"/w/tests/Cargo.toml","target":{"name":"hardware"},"profile":{"test":true},"executable":"/w/target/hardware-1"}
{"reason":"compiler-artifact","package_id":"registry+a#b@1.0.0","manifest_path":"/r/Cargo.toml","target":{"name":"b"},"profile":{"test":false},"executable":null}
"#;

    #[test]
    fn programs_with_tests_run_in_the_folders_of_their_packages() {
        let built = parse(MESSAGES);
        assert_eq!(built.others, [Path::new("/w/target/vmm")]);
        let [test] = &built.tests[..] else {
            panic!("one program: {built:?}");
        };
        assert_eq!(test.title(), "vmm it");
        let skipped = Reasons::parse("vmm it: a::b\nvmm its: c\n    Why.\n");
        let script = script(&built.tests, &skipped.expect("a list"));
        assert!(script.contains("it-1' --exact --skip 'a::b' 2>&1"));
        assert!(script.contains("cd '/w/crates/vmm' && CARGO_MANIFEST_DIR='/w/crates/vmm' '/w"));
    }

    #[test]
    fn the_script_reports_how_each_program_ended() {
        let run = |program: &str| {
            let test = TestProgram {
                package: "p".into(),
                name: "t".into(),
                folder: "/".into(),
                program: program.into(),
            };
            let mut shell = std::process::Command::new("sh");
            let output = shell
                .args(["-c", &script(&[test], &Reasons::default())])
                .output();
            String::from_utf8_lossy(&output.expect("a shell").stdout).into_owned()
        };
        assert!(run("/bin/false").ends_with("@end 0 1\n"));
        assert!(run("/bin/true").ends_with("@end 0 0\n"));
    }

    #[test]
    fn a_package_is_named_in_its_id_or_by_its_folder() {
        assert_eq!(package("path+file:///w/tests/own-model#0.1.0"), "own-model");
        assert_eq!(package("path+file:///w/tests#it@0.1.0"), "it");
    }
}
