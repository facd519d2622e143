// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm run`: chooses a backend, runs the script, and prints the report.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use kvm_slots::AbiProfile;
use memory_map::text::Layout;

use super::{Backend, InFile, RunArgs, print_error, print_json, read, width};
use crate::backend::Platform;
use crate::backend::kvm::{Kvm, KvmError};
use crate::backend::sim::Sim;
use crate::machine::Machine;
use crate::report::Report;
use crate::report::text::{Tally, heading, steps_heading};
use crate::run::Run;
use crate::run::script_time::ScriptTime;

/// The simulated KVM has memory in place of registers, but no devices behind it.
const NO_DEVICES: &str =
    "the machine has real devices, and those only the real KVM can give to a guest";

/// Runs the machine. Returns whether every step went as expected.
pub(super) fn run(args: &RunArgs) -> Result<bool, Box<dyn Error>> {
    let file = args.machine.as_deref();
    let machine = read(file)?;
    let kvm = || Kvm::new(&machine, &args.kvm_device, args.abi.unwrap_or_default());
    let sim = || {
        let abi = args.abi.unwrap_or(AbiProfile::FD_OFFSET_BIT_4);
        Sim::new(&machine, args.sim_kernel.into(), abi)
    };
    let has_devices = machine.assigned().next().is_some();
    let time = ScriptTime::seconds(args.seconds);
    let on_kvm = |kvm: Kvm, why: &str| run_on(file, &machine, &kvm, why, time, args.json);
    let on_sim = |why: &str| run_on(file, &machine, &sim(), why, time, args.json);
    match args.backend {
        Backend::Sim if has_devices => Err(NO_DEVICES.into()),
        Backend::Kvm => on_kvm(kvm()?, "asked for"),
        Backend::Sim => on_sim("asked for"),
        Backend::Auto => match kvm() {
            Ok(kvm) => on_kvm(kvm, &format!("{} is there", args.kvm_device.display())),
            // Do not hide a mistake: this file exists, but is not KVM.
            Err(error @ KvmError::NotKvm(_)) => Err(error.into()),
            Err(error) if has_devices => Err(error.into()),
            Err(error) => on_sim(&error.to_string()),
        },
    }
}

fn run_on<P: Platform>(
    file: Option<&Path>,
    machine: &Machine,
    platform: &P,
    why: &str,
    time: ScriptTime,
    json: bool,
) -> Result<bool, Box<dyn Error>> {
    let mut out = io::stdout().lock();
    let layout = Layout::new(width::of(&out));
    let run = Run::new(machine, platform);
    let mut run = run.map_err(|error| InFile::new(file, error))?;
    run.time = time;
    let before = run.board.map(&machine.name);
    let unsupported = machine.regions.iter().zip(&run.board.refused);
    let unsupported =
        unsupported.filter_map(|(region, why)| Some((region.name.clone(), (*why)?.to_string())));
    let mut report = Report {
        machine: machine.name.clone(),
        backend: platform.name(),
        why_backend: why.to_string(),
        kernel: platform.kernel(),
        unsupported: unsupported.collect(),
        steps: Vec::new(),
        slot_ops: 0,
        slots: before.slots.clone(),
        slots_after: Vec::new(),
    };
    if !json {
        write!(out, "{}", heading(&report, layout))?;
        write!(
            out,
            "{}\n{}\n{}\n",
            layout.tree(&before),
            layout.flat(&before),
            layout.slots(&before)
        )?;
        write!(out, "{}", steps_heading(layout))?;
    }
    drop(before);
    let mut tally = Tally::default();
    let mut cut_short = None;
    for (index, step) in machine.steps.iter().enumerate() {
        if let Err(error) = time.check(index + 1) {
            tally.not_run = machine.steps.len() - index;
            cut_short = Some(InFile::new(file, error));
            break;
        }
        let step = run.step(machine, index + 1, step);
        tally.count(&step);
        match json {
            // JSON is printed as a whole: a part of it is not valid.
            true => {
                if let Err(error) = report.push(step) {
                    cut_short = Some(InFile::new(file, error));
                    break;
                }
            }
            false => write!(out, "{}", step.text_in(layout))?,
        }
    }
    match json {
        true if cut_short.is_none() => {
            report.slots_after = run.board.map(&machine.name).slots;
            print_json(out, &report)?;
        }
        true => {}
        false => writeln!(out, "\n{}", tally.summary())?,
    }
    match cut_short {
        // A wrong step is the more important news.
        Some(error) if tally.wrong > 0 => print_error(&error),
        Some(error) => return Err(error.into()),
        None => {}
    }
    Ok(tally.wrong == 0)
}
