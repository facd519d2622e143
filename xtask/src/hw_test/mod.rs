// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs the hardware tests in the environments.

mod compare;
mod follow;
mod html;
mod libtest;
mod outcome;
mod report;
mod session;
mod simulated;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::json;

use crate::lab::apt::Network;
use crate::lab::architecture::Architecture;
use crate::lab::boot::{self, Console};
use crate::lab::disk::Disk;
use crate::lab::environment::{Environment, Kernel, select};
use crate::lab::monitor::Monitor;
use crate::lab::{self, Bootable, Obstacle, Preloaded, Programs, guest};
use crate::shell::build_program;
use report::{Report, Unavailable};
use session::TimeLimits;

/// The word for environments of every architecture.
pub const EVERY_ARCHITECTURE: &str = "all";

/// What to run, and where to write the results.
#[derive(Clone, Debug, Default)]
pub struct HwTestOptions {
    /// The names of the environments. If empty, the default ones.
    pub names: Vec<String>,
    /// Only environments of this architecture, by Rust's name of it, or
    /// [`EVERY_ARCHITECTURE`]. If `None`, this machine's if no environment is named,
    /// and else any.
    pub architecture: Option<&'static str>,
    /// The file for the results as JSON.
    pub json: Option<PathBuf>,
    /// The file for the results as an HTML page.
    pub html: Option<PathBuf>,
    /// Use only the cache.
    pub offline: bool,
    /// The number of random operations of each differential test. If `None`, a
    /// number that is quick.
    pub differential_ops: Option<u64>,
    /// Run only tests with this text in their names.
    pub only: String,
    /// Which of the kernel's own selftests are run.
    pub selftests: Selftests,
}

/// A selection of the kernel's own selftests.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub enum Selftests {
    /// None.
    None,
    /// Some that take a minute together.
    Quick,
    /// All.
    #[default]
    All,
}

impl Selftests {
    /// The name by which the test program knows the selection.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Quick => "quick",
            Self::All => "all",
        }
    }

    /// The selection for an environment. A slow one runs the quick ones at most.
    fn on(self, environment: Environment) -> Self {
        match environment.by_default {
            true => self,
            false => self.min(Self::Quick),
        }
    }
}

/// The number of random operations that is quick in an emulator.
const EMULATED_OPS: u64 = 40_000;

/// Runs the tests in the named environments, or in all that are available. A
/// named environment that is not available is a failure.
pub fn run(options: &HwTestOptions) -> Result<(), String> {
    let report = report_on(options, None)?;
    report.verdict(&options.names)
}

/// The same for fresh machines that may have no network: only this machine is
/// required, building a kernel has a time limit, and only quick selftests of the
/// kernel are run. A patch that does not apply or a build that fails is a failure.
pub fn run_where_possible(names: &[&str], limit: Duration) -> Result<(), String> {
    let options = HwTestOptions {
        names: names.iter().map(ToString::to_string).collect(),
        selftests: Selftests::Quick,
        ..HwTestOptions::default()
    };
    report_on(&options, Some(limit))?.verdict(&["host".into()])
}

fn report_on(options: &HwTestOptions, limit: Option<Duration>) -> Result<Report, String> {
    let start = Instant::now();
    let environments = selected(options)?;
    let folder = lab::boot::results_folder()?;
    let network = match options.offline {
        true => Network::Offline,
        false => Network::Daily,
    };
    let (jobs, unavailable) = jobs(&environments, options, network, limit, &folder)?;
    let prepared = start.elapsed().as_secs();
    let report = Report::new(run_jobs(jobs, options)?, unavailable);
    println!("\n{}", table::text(&report));
    let page = options
        .html
        .clone()
        .unwrap_or_else(|| folder.join("report.html"));
    let console = |environment: &outcome::Environment| environment.console_end.clone();
    write(&page, &html::page(&report, console))?;
    if let Some(path) = &options.json {
        write(path, &format!("{:#}\n", json!(report)))?;
    }
    let seconds = start.elapsed().as_secs();
    eprintln!(
        "xtask: hardware tests: {seconds} s, {prepared} of them to make the environments ready"
    );
    eprintln!("xtask: hardware tests: report: {}", page.display());
    Ok(report)
}

/// The environments that the options select.
///
/// # Errors
/// There are none, or one that is named does not run because of another option.
fn selected(options: &HwTestOptions) -> Result<Vec<Environment>, String> {
    let environments = select(&options.names)?;
    if options.names.is_empty() {
        let architecture = options.architecture.unwrap_or(std::env::consts::ARCH);
        return of_architecture(environments, architecture);
    }
    let excluded = environments.iter().filter_map(|it| excluded(*it, options));
    let excluded: Vec<String> = excluded.collect();
    match excluded.is_empty() {
        true => Ok(environments),
        false => Err(excluded.join("\n       ")),
    }
}

/// Why the options exclude an environment that is named, if they do.
fn excluded(environment: Environment, options: &HwTestOptions) -> Option<String> {
    let (name, own) = (environment.name, environment.runs_on());
    let selected = [EVERY_ARCHITECTURE, own];
    let other = options.architecture.filter(|it| !selected.contains(it));
    if let Some(other) = other {
        return Some(format!(
            "--arch {other} excludes --env {name}, which is of {own}"
        ));
    }
    let has_only_selftests = matches!(environment.kernel, Kernel::Simulated(_));
    (has_only_selftests && options.selftests == Selftests::None)
        .then(|| format!("--selftests none excludes --env {name}, which has only selftests"))
}

/// The environments of an architecture, or of every one.
fn of_architecture(
    mut environments: Vec<Environment>,
    architecture: &str,
) -> Result<Vec<Environment>, String> {
    let is_wanted = |other: &str| [EVERY_ARCHITECTURE, other].contains(&architecture);
    environments.retain(|environment| is_wanted(environment.runs_on()));
    match environments.is_empty() {
        true => Err(format!("none of these environments is of {architecture}")),
        false => Ok(environments),
    }
}

/// One environment, ready to run.
#[derive(Debug)]
enum Job {
    Host(Programs),
    Booted {
        bootable: Box<Bootable>,
        console: PathBuf,
        selftests: Selftests,
    },
    Simulated {
        name: &'static str,
        line: &'static str,
        tests: simulated::Tests,
        programs: Preloaded,
    },
}

/// Prepares the environments. Returns those that are not available, with the
/// reasons.
fn jobs(
    environments: &[Environment],
    options: &HwTestOptions,
    network: Network,
    limit: Option<Duration>,
    folder: &Path,
) -> Result<(Vec<Job>, Vec<Unavailable>), String> {
    let (mut jobs, mut unavailable) = (Vec::new(), Vec::new());
    let booted = environments.iter().filter(|e| e.is_booted());
    let booted: Vec<Environment> = booted.copied().collect();
    let mut carried: Vec<(&Architecture, Result<Programs, Obstacle>)> = Vec::new();
    for Environment { architecture, .. } in &booted {
        if !carried.iter().any(|(other, _)| other == architecture) {
            carried.push((architecture, Programs::build(architecture)));
        }
    }
    if environments.iter().any(|e| e.kernel == Kernel::Host) {
        // The programs that are built for the lab also run here.
        let native = carried.iter().find(|(other, _)| other.is_native());
        let programs = match native {
            Some((_, Ok(programs))) => programs.clone(),
            _ => Programs {
                tests: build_program("tests", "hw-tests")?,
                vmm: build_program("vmm", "vmm")?,
            },
        };
        jobs.push(Job::Host(programs));
    }
    let with_selftests = options.selftests != Selftests::None;
    for environment in environments.iter().filter(|_| with_selftests) {
        let Kernel::Simulated(recipe) = environment.kernel else {
            continue;
        };
        let (name, line) = (environment.name, recipe.line);
        let tests = simulated::Tests::build(&options.only, options.offline)?;
        let made = || lab::preloaded(*environment, recipe, network, limit);
        match tests.any().map_err(Obstacle::Missing).and_then(|()| made()) {
            Ok(programs) => jobs.push(Job::Simulated {
                name,
                line,
                tests,
                programs,
            }),
            Err(obstacle) => unavailable.push(Unavailable::new(name, &obstacle)),
        }
    }
    let mut made = Vec::new();
    for (architecture, programs) in &carried {
        let own = booted.iter().filter(|e| e.architecture == *architecture);
        let own: Vec<Environment> = own.copied().collect();
        let bootable = match programs {
            Ok(programs) => {
                lab::make_bootable(&own, &programs.payload(with_selftests), network, limit)
            }
            Err(error) => own.iter().map(|_| Err(error.clone())).collect(),
        };
        made.extend(own.into_iter().zip(bootable));
    }
    for (environment, made) in made {
        let console = folder.join(format!("{}.console.log", environment.name));
        match made {
            Ok(bootable) => jobs.push(Job::Booted {
                bootable: Box::new(bootable),
                console,
                selftests: options.selftests.on(environment),
            }),
            Err(obstacle) => unavailable.push(Unavailable::new(environment.name, &obstacle)),
        }
    }
    Ok((jobs, unavailable))
}

/// Runs the jobs, as many at a time as there are processors. Returns the
/// results in the jobs' order.
fn run_jobs(jobs: Vec<Job>, options: &HwTestOptions) -> Result<Vec<outcome::Environment>, String> {
    let count = jobs.len();
    let workers = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(count);
    let queue = Mutex::new(jobs.into_iter().enumerate());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some((number, job)) = next else { break };
                    let result = run_job(&job, options);
                    if let Ok(mut done) = done.lock() {
                        done.push((number, result));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().map_err(|_| "a run of tests panicked")?;
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

fn run_job(job: &Job, options: &HwTestOptions) -> Result<outcome::Environment, String> {
    let (ops, only) = (options.differential_ops, &options.only);
    match job {
        Job::Host(programs) => {
            let ops = ops.map(|n| ["--differential-ops".into(), n.to_string()]);
            let mut command = Command::new(&programs.tests);
            command
                .args(ops.into_iter().flatten())
                .args(["--only", only])
                .args(["--selftests", options.selftests.word()]);
            command
                .arg("--boot")
                .arg(&programs.vmm)
                .args(guest::fetched());
            session::on_host("host", command, TimeLimits::USUAL)
        }
        Job::Simulated {
            name,
            line,
            tests,
            programs,
        } => tests.run(name, line, programs),
        Job::Booted {
            bootable,
            console,
            selftests,
        } => {
            let _lock = boot::lock(bootable.name(), console)?;
            // Remove the output of an earlier run.
            lab::cache::remove(console)?;
            let disk = Disk::create(&console.with_extension("disk"))?;
            let only = all_texts([bootable.only(), only.as_str()]);
            let to_file = Console::File {
                path: console,
                operations: ops.unwrap_or(EMULATED_OPS),
                only: &only,
                selftests: selftests.word(),
            };
            let mut command = bootable.command(to_file, &disk);
            let (name, limits) = (bootable.name(), TimeLimits::USUAL);
            let monitor = Monitor::new(name);
            command.arg("-monitor").arg(monitor.option());
            let examine = || monitor.examine(bootable.architecture());
            let mut results = session::booted(name, &mut command, console, limits, examine)?;
            results.check_disk(&disk);
            Ok(results)
        }
    }
}

/// Several texts for names of tests as one argument. Empty ones are left out.
fn all_texts(texts: [&str; 2]) -> String {
    let texts = texts.into_iter().filter(|text| !text.is_empty());
    texts.collect::<Vec<_>>().join(",")
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| lab::cache::at(path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::environment::find;

    #[test]
    fn environments_are_those_of_one_architecture_or_of_every_one() {
        let environments = select(&[]).expect("most of them");
        let names = |architecture: &str| {
            let of = of_architecture(environments.clone(), architecture);
            of.map(|of| of.iter().map(|e| e.name).collect::<Vec<_>>())
        };
        let every = names(EVERY_ARCHITECTURE).expect("all");
        assert_eq!(every.len(), environments.len());
        for architecture in ["x86_64", "aarch64"] {
            let of = names(architecture).expect("some");
            assert!(of.len() < every.len(), "{of:?}");
            let has_host = of.contains(&"host");
            assert_eq!(has_host, architecture == std::env::consts::ARCH);
        }
        assert!(names("m68k").is_err());
    }

    #[test]
    fn a_named_environment_that_another_option_excludes_is_an_error_that_names_both() {
        let options = |names: &[&str], architecture, selftests| HwTestOptions {
            names: names.iter().map(ToString::to_string).collect(),
            architecture,
            selftests,
            ..HwTestOptions::default()
        };
        let both = ["lab-7.3", "arm64-debian-7.3"];
        let error = selected(&options(&both, Some("x86_64"), Selftests::All));
        assert_eq!(
            error,
            Err("--arch x86_64 excludes --env arm64-debian-7.3, which is of aarch64".into())
        );
        let error = selected(&options(&["host", "simulated"], None, Selftests::None));
        let error = error.expect_err("it would not run");
        assert!(error.starts_with("--selftests none excludes --env simulated"));
        for architecture in [None, Some(EVERY_ARCHITECTURE)] {
            let all = selected(&options(&both, architecture, Selftests::None));
            assert_eq!(all.map(|all| all.len()), Ok(2));
        }
        // Without names, the options select.
        let some = selected(&options(&[], Some("aarch64"), Selftests::None));
        assert!(some.is_ok_and(|some| !some.is_empty()));
    }

    #[test]
    fn the_texts_of_an_environment_and_of_the_user_both_count() {
        assert_eq!(all_texts(["backing_fd", "selftest"]), "backing_fd,selftest");
        assert_eq!(all_texts(["", "selftest"]), "selftest");
        assert_eq!(all_texts(["", ""]), "");
    }

    #[test]
    fn a_slow_environment_runs_quick_selftests_at_most() {
        let on = |name: &str, selftests: Selftests| selftests.on(find(name).expect("known"));
        assert_eq!(on("lab-7.3", Selftests::All), Selftests::All);
        let debug = "lab-7.3-private-mmio-debug";
        assert_eq!(on(debug, Selftests::All), Selftests::Quick);
        assert_eq!(on(debug, Selftests::None), Selftests::None);
    }
}
