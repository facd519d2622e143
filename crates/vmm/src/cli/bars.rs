// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm bars` on the command line.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;

use bar_report::{Bdf, Note};
use clap::{Args, ValueEnum};
use vfio_private::{OffsetRule, PageSize, TeeMsixPolicy};

use super::width;
use crate::bars;

const USAGE: &str = "\
vmm bars [OPTIONS] BDF
       vmm bars [OPTIONS] --config FILE [BDF]";

const EXAMPLES: &str = "\
Examples:
  vmm bars 0000:01:00.0             a device of this machine, from sysfs
  lspci -vv -s 01:00.0 > nvme.txt
  vmm bars --config nvme.txt        the same from this text, on any machine
  vmm bars 01:00.0 --config all.txt --page-size 64K
                                    one of several devices, on another host
  vmm bars --config config.bin --regions regions.json
                                    raw configuration space, and VFIO's answers:
    [{\"index\": 0, \"size\": \"0x4000\", \"flags\": [\"read\", \"write\", \"mmap\"],
      \"msix_mappable\": true, \"sparse\": [{\"offset\": \"0x0\", \"size\": \"0x2000\"}]}]
  vmm bars --config nvme.txt --report report.bin --report-offset masked
                                    with what the device attested by TDISP

Without a report nothing is private. Pages that hold a byte of the MSI-X table
or of the pending bits trap, as do BARs that are smaller than a host page.

Notes list what an answer depends on: a fact that is not known, another offset
rule that fits, a table that the device has locked. With --json each BAR has the
notes that apply to it, and all notes are printed to standard error too.

Exit status: 0 if every BAR was classified; 2 if not, and then only the error is
printed.";

#[derive(Debug, Args)]
#[command(override_usage = USAGE, after_help = EXAMPLES)]
pub struct BarsArgs {
    /// The device, as in 0000:01:00.0: in this machine, or among several in the
    /// text of --config.
    bdf: Option<Bdf>,
    /// Configuration space as raw bytes, or what `lspci -vv` printed, with or
    /// without the dump that -xxxx adds.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// VFIO's region info as JSON: sizes, and what may be mapped. Without it, a
    /// device of this machine that is bound to vfio-pci is opened, which resets
    /// it, and VFIO is asked; any other memory BAR counts as mappable.
    #[arg(long, value_name = "FILE")]
    regions: Option<PathBuf>,
    /// The bytes of a TDISP DEVICE_INTERFACE_REPORT. A range ID from 0 to 5 is a
    /// BAR number; ranges with other IDs are left out.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// How the report's pages become offsets in a BAR.
    #[arg(long, value_enum, default_value_t = ReportOffset::Relative)]
    report_offset: ReportOffset,
    /// How to treat an MSI-X table or pending bits that the report marks in TEE
    /// memory: the device has locked them, and the host cannot write them.
    #[arg(long, value_enum, default_value_t = LockedMsix::Refuse)]
    locked_msix: LockedMsix,
    /// The page size of the host: 4K, 16K or 64K; this host's without it.
    #[arg(long, value_name = "N", value_parser = page_size)]
    page_size: Option<PageSize>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Where sysfs is.
    #[arg(long, value_name = "FOLDER", default_value = "/sys", hide = true)]
    sysfs: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReportOffset {
    /// From the lowest page of the same BAR: right if the BAR is reported from
    /// its first page on.
    Relative,
    /// The address modulo the BAR's size: right if the reporting offset is a
    /// multiple of it.
    Masked,
}

impl From<ReportOffset> for OffsetRule {
    fn from(rule: ReportOffset) -> Self {
        match rule {
            ReportOffset::Relative => Self::Relative,
            ReportOffset::Masked => Self::Masked,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LockedMsix {
    /// An error: correct if the VMM sets up the device's interrupts itself, as
    /// with VFIO.
    Refuse,
    /// Private: the guest sets up its interrupts, and the platform confines them.
    Private,
}

impl From<LockedMsix> for TeeMsixPolicy {
    fn from(policy: LockedMsix) -> Self {
        match policy {
            LockedMsix::Refuse => Self::Refuse,
            LockedMsix::Private => Self::Private,
        }
    }
}

/// A page size in bytes, decimal or hexadecimal, or in units of `K`.
fn page_size(text: &str) -> Result<PageSize, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1024),
        None => (text, 1),
    };
    let number = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    let bytes = number.ok().and_then(|number| number.checked_mul(unit));
    let bytes = bytes.ok_or("it is none of 4K, 16K and 64K")?;
    PageSize::new(bytes).map_err(|error| error.to_string())
}

/// Classifies the BARs and prints the whole report, or only an error.
pub fn run(args: BarsArgs) -> Result<(), Box<dyn Error>> {
    let page = match args.page_size {
        Some(page) => page,
        None => PageSize::new(rustix::param::page_size() as u64)?,
    };
    let report = bars::report(&bars::Request {
        device: args.bdf,
        config: args.config,
        regions: args.regions,
        report: args.report,
        rule: args.report_offset.into(),
        locked_msix: args.locked_msix.into(),
        page,
        sysfs: args.sysfs,
    })?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&report.to_json())? + "\n",
        false => report.to_text_in(width::of(io::stdout())),
    };
    if args.json {
        print_notes(&report.notes);
    }
    // In one call: standard output is flushed at each line, and there may be many.
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// Prints the notes on standard error, for people who pipe the JSON to a program.
/// Ignores failures.
fn print_notes(notes: &[Note]) {
    let line = |note: &Note| match note.bar {
        Some(bar) => format!("note: {bar}: {note}\n"),
        None => format!("note: {note}\n"),
    };
    let lines: String = notes.iter().map(line).collect();
    let _ = io::stderr().lock().write_all(lines.as_bytes());
}
