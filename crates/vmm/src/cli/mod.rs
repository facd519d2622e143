// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line: arguments, output and exit status.

mod bars;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod boot;
mod run;
mod width;

use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kvm_slots::AbiProfile;
use kvm_slots::sim::KernelVersion;
use memory_map::svg;
use memory_map::text::Layout;
use qemu_mtree::CutOff;
use serde::Serialize;

use crate::backend::sim::Sim;
use crate::board::Board;
use crate::machine::Machine;
use bar_report::with_causes;

/// Runs guests whose memory has no host pointer where it must not have one.
///
/// Without a command, the built-in machine is run.
#[derive(Debug, Parser)]
#[command(
    name = "vmm",
    version,
    after_help = EXAMPLES,
    max_term_width = 80,
    // `vmm --json run` would otherwise run without `--json`.
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

const EXAMPLES: &str = "\
Examples:
  vmm                         the built-in machine, on /dev/kvm if there is one
  vmm run examples/pc.toml --backend sim
                              a PC's memory map, on the simulated KVM
  vmm run --json | jq .ok     for scripts
  vmm map examples/pc.toml --as svg > pc.svg
  vmm mtree dump.txt          from QEMU's `info mtree -D`: the flat views, as
                              `info mtree -f` prints them
  vmm bars 0000:01:00.0       which bytes of a device's BARs the guest may reach

Exit status: 0 if every step went as expected; 1 if one did not; 2 if a command
failed, or the script was cut short before a step went wrong; 141 if the reader
of the output closed it.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a machine's script and check every access of its guest.
    Run(RunArgs),
    /// Show a machine's memory without running it.
    Map(MapArgs),
    /// Print a QEMU machine's flat views from its region tree.
    ///
    /// The tree lacks facts that decide the views. Whether a region answers
    /// accesses is guessed by its name and shape. Notes on standard error list the
    /// regions of equal priority that overlap, and which one is shown.
    Mtree(MtreeArgs),
    /// Report which bytes of each BAR are private, shared, trapped or blocked.
    Bars(bars::BarsArgs),
    /// Boot a Linux kernel, with devices assigned to it.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    Boot(boot::BootArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The machine; the built-in one if none is given.
    machine: Option<PathBuf>,
    /// What to run on.
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// The ABI for memslots without a host address: `none`,
    /// `fd-offset[=BIT]`, `rfc-dmabuf[=BIT]` or `push`, where BIT is the bit of
    /// the slot's flag. Released kernels have none; the simulated kernel has
    /// `fd-offset` by default.
    #[arg(long)]
    abi: Option<AbiProfile>,
    /// The kernel to simulate. Has no effect on the real KVM.
    #[arg(long, value_enum, default_value_t = SimKernel::V7_3)]
    sim_kernel: SimKernel,
    /// The processor time that the script may use, in seconds. Reading and
    /// assembling the machine counts too.
    #[arg(long, default_value_t = 3, value_name = "N")]
    seconds: u64,
    /// The device file of KVM.
    #[arg(long, default_value = "/dev/kvm", value_name = "PATH")]
    kvm_device: PathBuf,
}

#[derive(Debug, Args)]
struct MapArgs {
    /// The machine; the built-in one if none is given.
    machine: Option<PathBuf>,
    /// The form; without it: tree, flat view and memslots as text.
    #[arg(long = "as", value_enum)]
    form: Option<Form>,
    /// The ABI for memslots without a host address, as for `run`.
    #[arg(long, default_value = "fd-offset")]
    abi: AbiProfile,
}

/// The most notes on overlaps that `vmm mtree` prints.
const MAX_OVERLAPS: usize = 3;

#[derive(Debug, Args)]
struct MtreeArgs {
    /// What QEMU's `info mtree -D` printed.
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// The real KVM if there is one, else the simulated one.
    Auto,
    /// The real KVM.
    Kvm,
    /// The simulated KVM.
    Sim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SimKernel {
    /// Linux 6.1.
    #[value(name = "6.1")]
    V6_1,
    /// Linux 6.12.
    #[value(name = "6.12")]
    V6_12,
    /// Linux 6.18.
    #[value(name = "6.18")]
    V6_18,
    /// Linux 7.3.
    #[value(name = "7.3")]
    V7_3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// The region tree.
    Tree,
    /// The flat view.
    Flat,
    /// The memslots.
    Slots,
    /// All three for scripts.
    Json,
    /// A picture.
    Svg,
}

impl From<SimKernel> for KernelVersion {
    fn from(kernel: SimKernel) -> Self {
        match kernel {
            SimKernel::V6_1 => Self::V6_1,
            SimKernel::V6_12 => Self::V6_12,
            SimKernel::V6_18 => Self::V6_18,
            SimKernel::V7_3 => Self::V7_3,
        }
    }
}

/// Runs the command line; returns its exit status.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None => run::run(&cli.run),
        Some(Command::Run(args)) => run::run(&args),
        Some(Command::Map(args)) => map(&args).map(|()| true),
        Some(Command::Mtree(args)) => mtree(&args).map(|()| true),
        Some(Command::Bars(args)) => bars::run(args).map(|()| true),
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        Some(Command::Boot(args)) => return status(boot::boot(args)),
    };
    status(result.map(|is_as_expected| match is_as_expected {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    }))
}

/// The exit status of a command; prints its error.
fn status(result: Result<ExitCode, Box<dyn Error>>) -> ExitCode {
    match result {
        Ok(status) => status,
        // The reader has closed the pipe. Exit as if by SIGPIPE: the output is incomplete,
        // and a script may not have run to its end.
        Err(error) if is_broken_pipe(&*error) => ExitCode::from(141),
        Err(error) => {
            print_error(&*error);
            ExitCode::from(2)
        }
    }
}

fn print_error(error: &(dyn Error + 'static)) {
    // If standard error fails too, there is nowhere left to report it.
    let _ = writeln!(io::stderr(), "vmm: {}", with_causes(error));
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn read(machine: Option<&Path>) -> Result<Machine, Box<dyn Error>> {
    Ok(match machine {
        Some(path) => Machine::read(path)?,
        None => Machine::built_in()?,
    })
}

/// An error with the machine file that caused it.
#[derive(Debug, thiserror::Error)]
#[error("{file}")]
struct InFile {
    file: String,
    source: Box<dyn Error>,
}

impl InFile {
    fn new(file: Option<&Path>, source: impl Error + 'static) -> Self {
        let file = file.map_or("built-in machine".into(), |file| file.display().to_string());
        Self {
            file,
            source: source.into(),
        }
    }
}

/// Prints one JSON value, buffered.
fn print_json(out: impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    out.flush()
}

fn map(args: &MapArgs) -> Result<(), Box<dyn Error>> {
    let file = args.machine.as_deref();
    let machine = read(file)?;
    let platform = Sim::new(&machine, KernelVersion::V7_3, args.abi);
    let board = Board::new(&machine, &platform);
    let board = board.map_err(|error| InFile::new(file, error))?;
    let map = board.map(&machine.name);
    let mut out = io::stdout().lock();
    let text = Layout::new(width::of(&out));
    match args.form {
        None => write!(
            out,
            "{}\n{}\n{}",
            text.tree(&map),
            text.flat(&map),
            text.slots(&map)
        )?,
        Some(Form::Tree) => write!(out, "{}", text.tree(&map))?,
        Some(Form::Flat) => write!(out, "{}", text.flat(&map))?,
        Some(Form::Slots) => write!(out, "{}", text.slots(&map))?,
        Some(Form::Json) => print_json(out, &map)?,
        Some(Form::Svg) => write!(out, "{}", svg::document(&map))?,
    }
    Ok(())
}

fn mtree(args: &MtreeArgs) -> Result<(), Box<dyn Error>> {
    let machine = qemu_mtree::read_file(&args.file)?;
    // If standard error fails too, there is nowhere left to report it.
    let _ = write!(io::stderr().lock(), "{}", mtree_notes(args, &machine));
    write!(io::stdout().lock(), "{}", machine.flat_text())?;
    Ok(())
}

/// What the views of a dump depend on, a line each.
fn mtree_notes(args: &MtreeArgs, machine: &qemu_mtree::Machine) -> String {
    let file = args.file.display();
    let mut notes: Vec<String> = machine.cut_off.iter().map(CutOff::to_string).collect();
    let shown = machine.overlaps.iter().take(MAX_OVERLAPS);
    notes.extend(shown.map(|overlap| format!("{file}:{overlap}")));
    match machine.overlaps.len().saturating_sub(MAX_OVERLAPS) {
        0 => {}
        more => notes.push(format!("{file}: {more} more regions overlap like this")),
    }
    notes.iter().map(|note| format!("note: {note}\n")).collect()
}
