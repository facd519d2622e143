// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Builds a kernel from Debian's source: configure, make. An interrupted build is
//! resumed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::architecture::{Architecture, KernelTarget};
use super::cache::{self, Cache};
use super::environment::Recipe;
use super::obstacle::Obstacle;
use super::source;
use crate::shell;

/// The interval between progress messages.
const BEAT: Duration = Duration::from_secs(10);

/// Builds kernels and programs from their source.
#[derive(Clone, Copy, Debug)]
pub struct Builder {
    /// The number of parallel jobs.
    pub jobs: usize,
    /// The time limit of a build, if there is one.
    pub limit: Option<Duration>,
}

/// What determines the kernel together with its source: the recipe's options,
/// modules, and patches that change more than tools and documentation.
///
/// # Errors
/// A file cannot be read.
pub fn inputs(recipe: Recipe) -> Result<Vec<Vec<u8>>, String> {
    let mut inputs = vec![configuration(recipe)?.into_bytes()];
    if !recipe.modules.is_empty() {
        inputs.push(recipe.modules.join(" ").into_bytes());
    }
    let patches = source::patch_contents(recipe)?;
    inputs.extend(patches.into_iter().filter(|patch| changes_kernel(patch)));
    Ok(inputs)
}

/// Whether a patch changes a file that the kernel may be built from.
fn changes_kernel(patch: &[u8]) -> bool {
    let text = String::from_utf8_lossy(patch);
    let mut files = text.lines().filter_map(|line| line.strip_prefix("+++ "));
    let is_other = |file: &str| {
        ["b/tools/testing/", "b/Documentation/"]
            .iter()
            .any(|start| file.starts_with(start))
    };
    files.any(|file| !is_other(file))
}

impl Builder {
    /// Builds the source of a package into a folder.
    ///
    /// # Errors
    /// A step fails, or the build exceeds its limit. It can be resumed.
    pub fn build(
        &self,
        cache: &Cache,
        architecture: &Architecture,
        recipe: Recipe,
        debs: &[PathBuf],
        to: &Path,
    ) -> Result<(), Obstacle> {
        let name = format!("Linux {}{}", recipe.line, recipe.suffix);
        let folder = cache
            .folder("builds")?
            .join(to.file_name().unwrap_or_default());
        let tree = source::tree(&name, recipe, debs, &folder, |new| {
            configure(architecture, recipe, new)
        })?;
        let log = folder.join("make.log");
        let KernelTarget { goal, image, .. } = architecture.kernel;
        let cross = cross(architecture);
        let mut targets: Vec<&str> = cross.iter().map(String::as_str).collect();
        targets.push(goal);
        if !recipe.modules.is_empty() {
            targets.push("modules");
        }
        self.make(&name, &targets, &tree, &log, Instant::now())?;
        let image = tree.join(image);
        fs::copy(&image, to.join("image")).map_err(|e| cache::at(&image, &e))?;
        copy_modules(recipe.modules, &tree, &to.join("modules"))?;
        Ok(cache::remove(&folder)?)
    }

    /// Runs make and shows its progress. The limit counts from `start`.
    ///
    /// # Errors
    /// It fails or exceeds the limit.
    pub fn make(
        &self,
        name: &str,
        arguments: &[&str],
        tree: &Path,
        log: &Path,
        start: Instant,
    ) -> Result<(), Obstacle> {
        eprintln!("xtask: lab: {name}: building, with {} jobs", self.jobs);
        let mut log_file = File::create(log).map_err(|e| cache::at(log, &e))?;
        let errors = log_file.try_clone().map_err(|e| cache::at(log, &e))?;
        let mut command = Command::new("nice");
        command.args(["-n", "10", "make"]).args(arguments);
        command.current_dir(tree);
        command.arg(format!("-j{}", self.jobs));
        // Make the build reproducible.
        command.env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970");
        command.envs([("KBUILD_BUILD_USER", "lab"), ("KBUILD_BUILD_HOST", "lab")]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut child = command.spawn().map_err(|e| format!("nice make: {e}"))?;
        let (to, lines) = channel();
        if let Some(out) = child.stdout.take() {
            thread::spawn(move || for_each_line(out, |line| to.send(line).is_ok()));
        }
        let (mut steps, mut shown) = (0, Instant::now());
        loop {
            match lines.recv_timeout(BEAT) {
                Ok(line) => {
                    steps += usize::from(is_step(&line));
                    let _ = writeln!(log_file, "{line}");
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if shown.elapsed() >= BEAT {
                let seconds = start.elapsed().as_secs();
                eprintln!("xtask: lab: {name}: {steps} files built in {seconds} s");
                shown = Instant::now();
            }
            if self.limit.is_some_and(|limit| start.elapsed() > limit) {
                stop(&mut child);
                let minutes = start.elapsed().as_secs() / 60;
                return Err(Obstacle::TooLong(format!(
                    "building {name} took longer than {minutes} minutes; the next run continues it"
                )));
            }
        }
        let status = child.wait().map_err(|e| format!("make: {e}"))?;
        match status.success() {
            true => {
                let seconds = start.elapsed().as_secs();
                eprintln!("xtask: lab: {name}: built, {steps} files in {seconds} s");
                Ok(())
            }
            false => Err(Obstacle::Fault(format!(
                "{name} does not build; {} ends with:\n{}",
                log.display(),
                last_lines(&fs::read_to_string(log).unwrap_or_default(), 15)
            ))),
        }
    }
}

/// The arguments of make for another architecture than this machine's.
fn cross(architecture: &Architecture) -> Vec<String> {
    let KernelTarget {
        name,
        cross_compile,
        ..
    } = architecture.kernel;
    match architecture.is_native() {
        true => Vec::new(),
        false => vec![
            format!("ARCH={name}"),
            format!("CROSS_COMPILE={cross_compile}"),
        ],
    }
}

/// Whether make prints the line for a file: in short, or as a command.
fn is_step(line: &str) -> bool {
    line.starts_with("  ") || line.starts_with("gcc ")
}

fn for_each_line(out: ChildStdout, mut take: impl FnMut(String) -> bool) {
    let lines = BufReader::new(out).lines().map_while(Result::ok);
    for line in lines {
        if !take(line) {
            break;
        }
    }
}

/// Copies modules, with names in the order of loading.
fn copy_modules(modules: &[&str], tree: &Path, to: &Path) -> Result<(), String> {
    if !modules.is_empty() {
        cache::make_folder(to)?;
    }
    for (number, module) in modules.iter().enumerate() {
        let path = tree.join(module);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let place = to.join(format!("{number:02}-{name}"));
        fs::copy(&path, &place).map_err(|e| cache::at(&path, &e))?;
    }
    Ok(())
}

/// Ends make with a signal that lets it end its children.
fn stop(child: &mut Child) {
    shell::succeeds("kill", &["-TERM", &child.id().to_string()]);
    let _ = child.wait();
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Configures the source and checks that no option was lost: a new version can
/// rename an option or give it new conditions.
fn configure(architecture: &Architecture, recipe: Recipe, tree: &Path) -> Result<(), String> {
    let make = |target: &str| {
        let mut command = Command::new("make");
        command.args(cross(architecture)).arg(target);
        shell::capture(command.current_dir(tree))
    };
    make("tinyconfig")?;
    let path = tree.join(".config");
    let read = || fs::read_to_string(&path).map_err(|e| cache::at(&path, &e));
    let wanted = configuration(recipe)?;
    let start = format!("{}\n{wanted}", read()?);
    fs::write(&path, start).map_err(|e| cache::at(&path, &e))?;
    make("olddefconfig")?;
    let lost = lost(&wanted, &read()?);
    match lost.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "this version's configuration does not take: {}",
            lost.join(", ")
        )),
    }
}

/// The recipe's options, the suffix among them.
fn configuration(recipe: Recipe) -> Result<String, String> {
    let mut options = String::new();
    for config in recipe.configs {
        let path = source::lab_folder().join(config);
        let text = fs::read_to_string(&path).map_err(|e| cache::at(&path, &e))?;
        options = format!("{}{text}\n", without(&options, &text));
    }
    Ok(format!(
        "{options}CONFIG_LOCALVERSION=\"{}\"\n",
        recipe.suffix
    ))
}

/// The lines of `options` without those that `later` overrides.
fn without(options: &str, later: &str) -> String {
    let name = |line: &str| Some(line.split_once('=')?.0.to_string());
    let replaced: Vec<String> = later.lines().filter_map(name).collect();
    let lines = options.lines();
    let kept = lines.filter(|line| name(line).is_none_or(|name| !replaced.contains(&name)));
    kept.map(|line| format!("{line}\n")).collect()
}

/// The options that a configuration lacks.
fn lost(wanted: &str, got: &str) -> Vec<String> {
    let is_there = |option: &str| match option.strip_suffix("=n") {
        Some(name) => !got
            .lines()
            .any(|line| line.starts_with(&format!("{name}="))),
        None => got.lines().any(|line| line == option),
    };
    let options = wanted.lines().filter(|line| line.starts_with("CONFIG_"));
    options
        .filter(|option| !is_there(option))
        .map(String::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::environment::{Kernel, kernels};

    #[test]
    fn a_lost_option_is_named() {
        let wanted = "# words\nCONFIG_KVM=y\nCONFIG_NEW=y\nCONFIG_DEBUG=n\nCONFIG_OLD=n\n";
        let got = "CONFIG_KVM=y\n# CONFIG_NEW is not set\nCONFIG_OLD=y\n";
        assert_eq!(lost(wanted, got), ["CONFIG_NEW=y", "CONFIG_OLD=n"]);
    }

    #[test]
    fn an_overridden_option_is_not_checked() {
        let options = "# words\nCONFIG_A=n\nCONFIG_AB=y\n";
        assert_eq!(without(options, "CONFIG_A=y\n"), "# words\nCONFIG_AB=y\n");
        assert_eq!(without(options, "# CONFIG_A\n"), options);
    }

    #[test]
    fn every_recipe_has_its_files() {
        for environment in kernels() {
            if let Kernel::Built(recipe) = environment.kernel {
                let inputs = inputs(recipe).expect("they are there");
                let folders_are_filled = inputs.len() > recipe.patches.len();
                assert!(folders_are_filled, "{}", environment.name);
                assert!(
                    configuration(recipe)
                        .expect("it is there")
                        .contains(recipe.suffix)
                );
            }
        }
    }

    #[test]
    fn a_patch_of_tests_or_documentation_alone_does_not_change_the_kernel() {
        let patch = |files: &[&str]| {
            let parts = files
                .iter()
                .map(|file| format!("--- a/{file}\n+++ b/{file}\n"));
            parts.collect::<String>().into_bytes()
        };
        let (test, text) = ("tools/testing/selftests/kvm/a.c", "Documentation/a.rst");
        assert!(!changes_kernel(&patch(&[test, text])));
        assert!(changes_kernel(&patch(&[test, "virt/kvm/kvm_main.c"])));
        assert!(changes_kernel(&patch(&["tools/objtool/check.c"])));
    }

    #[test]
    fn modules_are_named_in_the_order_of_loading() {
        let folder = tempfile::tempdir().expect("a folder");
        let (tree, to) = (folder.path().join("tree"), folder.path().join("modules"));
        cache::make_folder(&tree.join("b")).expect("made");
        for module in ["b/first.ko", "a.ko"] {
            fs::write(tree.join(module), "").expect("written");
        }
        copy_modules(&["b/first.ko", "a.ko"], &tree, &to).expect("copied");
        let names = cache::files(&to);
        let names: Vec<_> = names.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["00-first.ko", "01-a.ko"]);
        assert!(copy_modules(&["none.ko"], &tree, &to).is_err());
    }

    #[test]
    fn a_build_that_takes_too_long_is_no_fault_and_keeps_its_tree() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("Makefile"), "slow:\n\tsleep 60\n").expect("written");
        let builder = Builder {
            jobs: 1,
            limit: Some(Duration::ZERO),
        };
        let log = folder.path().join("make.log");
        let error = builder
            .make("it", &["slow"], folder.path(), &log, Instant::now())
            .expect_err("too long");
        assert!(error.to_string().contains("took longer"), "{error}");
        assert!(!error.is_fault());
        assert!(folder.path().join("Makefile").exists());
    }

    #[test]
    fn a_build_that_fails_is_a_fault_and_shows_the_end_of_its_log() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(
            folder.path().join("Makefile"),
            "it:\n\t@echo nothing works; false\n",
        )
        .expect("written");
        let builder = Builder {
            jobs: 1,
            limit: None,
        };
        let log = folder.path().join("make.log");
        let error = builder
            .make("it", &["it"], folder.path(), &log, Instant::now())
            .expect_err("it fails");
        assert!(error.to_string().contains("nothing works"), "{error}");
        assert!(error.is_fault());
    }
}
