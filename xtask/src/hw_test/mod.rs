// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The hardware tests in every environment that there is.

mod follow;
mod html;
mod report;
mod session;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::lab::apt::Network;
use crate::lab::boot::{self, Console};
use crate::lab::doctor;
use crate::lab::environment::{Environment, Kernel, X86_64, select};
use crate::lab::{self, Bootable};
use crate::shell::{build_program, build_static_program, root};
use report::{Report, Unavailable};
use session::Patience;

/// What is to be run, and where the results go.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The environments by name; all where there is none.
    pub names: Vec<String>,
    /// Where the results go as JSON.
    pub json: Option<PathBuf>,
    /// Where they go as a page.
    pub html: Option<PathBuf>,
    /// Use nothing but the cache.
    pub offline: bool,
    /// How many random operations a differential test makes; where it is not
    /// said, as many as are quick.
    pub differential_ops: Option<u64>,
    /// What the names of the tests have in them.
    pub only: String,
}

/// How many random operations are quick in an emulator.
const EMULATED_OPS: u64 = 40_000;

/// Runs the tests in the environments that are named, or in all that can be
/// had. What is named and cannot be had is a failure.
pub fn run(wish: &Wish) -> Result<(), String> {
    let report = report_on(wish, None)?;
    report.verdict(&wish.names)
}

/// The same where only this machine itself is required, and building a kernel
/// has a limit: for machines that are fresh and may have no network.
pub fn run_where_possible(names: &[&str], limit: Duration) -> Result<(), String> {
    let wish = Wish {
        names: names.iter().map(ToString::to_string).collect(),
        ..Wish::default()
    };
    report_on(&wish, Some(limit))?.verdict(&["host".into()])
}

fn report_on(wish: &Wish, limit: Option<Duration>) -> Result<Report, String> {
    let start = Instant::now();
    let environments = select(&wish.names)?;
    let folder = results_folder()?;
    let network = match wish.offline {
        true => Network::Offline,
        false => Network::Daily,
    };
    let (jobs, unavailable) = jobs(&environments, network, limit, &folder)?;
    let prepared = start.elapsed().as_secs();
    let report = Report {
        environments: run_jobs(jobs, wish.differential_ops, &wish.only)?,
        unavailable,
    };
    println!("\n{}", table::text(&report));
    let page = wish
        .html
        .clone()
        .unwrap_or_else(|| folder.join("report.html"));
    let console = |environment: &report::Environment| {
        let path = environment.console.as_deref();
        path.map(boot::console).unwrap_or_default()
    };
    write(&page, &html::page(&report, console))?;
    if let Some(path) = &wish.json {
        write(path, &format!("{:#}\n", json!(report)))?;
    }
    let seconds = start.elapsed().as_secs();
    eprintln!(
        "xtask: hardware tests: {seconds} s, {prepared} of them to make the environments ready"
    );
    eprintln!("xtask: hardware tests: report: {}", page.display());
    Ok(report)
}

/// One environment, ready to run.
#[derive(Debug)]
enum Job {
    Host(String, PathBuf),
    Booted(Box<Bootable>, PathBuf),
}

/// Makes the environments ready; says which cannot be had, and why.
fn jobs(
    environments: &[Environment],
    network: Network,
    limit: Option<Duration>,
    folder: &Path,
) -> Result<(Vec<Job>, Vec<Unavailable>), String> {
    let (mut jobs, mut unavailable) = (Vec::new(), Vec::new());
    let is_booted = |environment: &&Environment| environment.kernel != Kernel::Host;
    let booted: Vec<Environment> = environments.iter().filter(is_booted).copied().collect();
    let carried = match booted.is_empty() {
        true => Err("not wanted".to_string()),
        false => doctor::can_boot(&X86_64)
            .and_then(|()| build_static_program("tests", "hw-tests", X86_64.target)),
    };
    if booted.len() < environments.len() {
        // The program that is carried into the lab does here as well.
        let program = carried.clone();
        let program = program.or_else(|_| build_program("tests", "hw-tests"))?;
        jobs.push(Job::Host("host".into(), program));
    }
    let made = match &carried {
        Ok(program) => {
            let errand = lab::Errand::Tests { program };
            lab::make_bootable(&booted, &errand, network, limit)
        }
        Err(error) => booted.iter().map(|_| Err(error.clone())).collect(),
    };
    for (environment, made) in booted.iter().zip(made) {
        let console = folder.join(format!("{}.console.log", environment.name));
        match made {
            Ok(bootable) => jobs.push(Job::Booted(Box::new(bootable), console)),
            Err(reason) => unavailable.push(Unavailable {
                name: environment.name.into(),
                reason,
            }),
        }
    }
    Ok((jobs, unavailable))
}

/// Runs the jobs, as many at a time as there are processors; returns what came
/// of them in their order.
fn run_jobs(
    jobs: Vec<Job>,
    ops: Option<u64>,
    only: &str,
) -> Result<Vec<report::Environment>, String> {
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
                    let result = run_job(&job, ops, only);
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

fn run_job(job: &Job, ops: Option<u64>, only: &str) -> Result<report::Environment, String> {
    match job {
        Job::Host(name, program) => {
            let ops = ops.map(|n| ["--differential-ops".into(), n.to_string()]);
            let mut command = Command::new(program);
            command
                .args(ops.into_iter().flatten())
                .args(["--only", only]);
            session::on_host(name, command, Patience::USUAL)
        }
        Job::Booted(bootable, console) => {
            // What an earlier run wrote is no sign of this one.
            lab::cache::remove(console)?;
            let mut command = bootable.command(Console::File {
                path: console,
                operations: ops.unwrap_or(EMULATED_OPS),
                only,
            });
            session::booted(bootable.name(), &mut command, console, Patience::USUAL)
        }
    }
}

/// Where reports and consoles go by default.
pub fn results_folder() -> Result<PathBuf, String> {
    let folder = root().join("target").join("hw-test");
    lab::cache::make_folder(&folder)?;
    Ok(folder)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| lab::cache::at(path, &e))
}
