// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cuts a BAR of the machine file with `vfio-private`.

use vfio_private::region_info::RegionInfo;
use vfio_private::{
    Bar, BarIndex, BarInput, BarKind, BarRange, Msix, PageSize, Piece, PlacedReport, Policy,
    Region, ReportedRange, TeeKind, classify,
};

use super::spec;

/// A BAR as its device reports it.
#[derive(Debug)]
pub struct RealBar<'a> {
    /// Its size, and what VFIO lets userspace map of it.
    pub region: &'a RegionInfo,
    /// Where MSI-X is, if the device has it.
    pub msix: Option<Msix>,
}

/// Cuts a BAR of `size` bytes into private, shared, trapped and blocked
/// pieces. The private and shared ranges of the machine file make up a TDISP
/// report; without any, there is no report. A real BAR must match the machine
/// file.
///
/// # Errors
/// Why it cannot be cut, in words.
pub fn pieces(
    bar: &spec::Bar,
    size: u128,
    real: Option<&RealBar<'_>>,
) -> Result<Vec<Piece>, String> {
    let mut report = Vec::new();
    for (ranges, kind) in [(&bar.private, TeeKind::Tee), (&bar.shared, TeeKind::NonTee)] {
        for &(offset, size) in ranges {
            let range = ReportedRange::new(offset, size, kind);
            report.push(range.map_err(|e| e.to_string())?);
        }
    }
    let report = (!report.is_empty()).then_some(report.as_slice());
    cut(bar, size, real, report)
}

/// Cuts a BAR of a TEE device interface by the interface's report.
///
/// # Errors
/// Why it cannot be cut, in words.
pub fn attested_pieces(
    bar: &spec::Bar,
    size: u128,
    report: &PlacedReport,
) -> Result<Vec<Piece>, String> {
    cut(bar, size, None, Some(report.of(index(bar)?)))
}

/// The number of the BAR.
fn index(bar: &spec::Bar) -> Result<BarIndex, String> {
    let real = bar.assigned.map(|real| real.bar);
    let index = real.or(bar.tdi.as_ref().map(|tdi| tdi.bar));
    index
        .map_or(BarIndex::new(0), Ok)
        .map_err(|e| e.to_string())
}

fn cut(
    bar: &spec::Bar,
    size: u128,
    real: Option<&RealBar<'_>>,
    report: Option<&[ReportedRange]>,
) -> Result<Vec<Piece>, String> {
    let size = u64::try_from(size).map_err(|_| "a BAR is smaller than 2^64 bytes".to_string())?;
    let say = |error: &dyn std::error::Error| error.to_string();
    let index = index(bar)?;
    let in_bar =
        |&(offset, size): &(u64, u64)| BarRange::new(index, offset, size).map_err(|e| say(&e));

    let msix = match (&bar.msix_table, &bar.msix_pba) {
        (None, None) => None,
        // If the pending bits are not given, they share the page of the table.
        (Some(table), pba) => Some(Msix {
            table: in_bar(table)?,
            pba: in_bar(pba.as_ref().unwrap_or(table))?,
        }),
        (None, Some(_)) => return Err("'msix-pba' without 'msix-table'".into()),
    };
    let mut region = Region::mappable();
    let mut msix = msix;
    if let Some(real) = real {
        if real.region.size != size {
            let real = real.region.size;
            return Err(format!(
                "the device's {index} has {real:#x} bytes, not {size:#x}"
            ));
        }
        if msix.is_some() && msix != real.msix {
            let real = real.msix;
            return Err(format!(
                "the device has its MSI-X at {real:?}, not at {msix:?}"
            ));
        }
        msix = real.msix;
        region = real.region.region.clone();
    }
    region.mmap &= !bar.unmapped;
    let cut = Bar::new(index, BarKind::Memory, size).map_err(|e| say(&e))?;
    let input = BarInput::new(cut, &region)
        .with_msix(msix)
        .with_report(report);
    let page = PageSize::new(rustix::param::page_size() as u64).map_err(|e| say(&e))?;
    classify(&input, page, Policy::default()).map_err(|e| say(&e))
}
