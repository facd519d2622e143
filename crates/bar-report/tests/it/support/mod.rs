// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Queries to the library, and its reports in short forms.

pub mod pastes;

use std::path::{Path, PathBuf};

use bar_report::{
    BarReport, BarReportError, Bdf, Reader, RegionList, ReportOptions, TdispReport, with_causes,
};
use serde_json::Value;
use vfio_private::PageSize;

/// The input files of a report, on pages of 4 KiB.
#[derive(Clone, Default)]
pub struct Ask {
    config: Option<PathBuf>,
    sysfs: PathBuf,
    device: Option<Bdf>,
    regions: Option<PathBuf>,
    report: Option<PathBuf>,
}

impl Ask {
    /// Reads text of `lspci`, or configuration space.
    pub fn config(path: &str) -> Self {
        Self {
            config: Some(path.into()),
            ..Self::default()
        }
    }

    /// Reads a device of the machine whose sysfs is in the folder.
    pub fn sysfs(folder: &str, device: &str) -> Self {
        Self {
            sysfs: folder.into(),
            ..Self::default()
        }
        .device(device)
    }

    /// Selects a device.
    pub fn device(self, device: &str) -> Self {
        Self {
            device: Some(device.parse().unwrap()),
            ..self
        }
    }

    /// Adds a list of regions in JSON.
    pub fn regions(self, path: &str) -> Self {
        Self {
            regions: Some(path.into()),
            ..self
        }
    }

    /// Adds a TDISP report.
    pub fn report(self, path: &str) -> Self {
        Self {
            report: Some(path.into()),
            ..self
        }
    }

    pub fn run(&self) -> Result<BarReport, BarReportError> {
        let reader = Reader::new();
        let device = match (&self.config, self.device) {
            (Some(path), device) => reader.file(path, device)?,
            (None, device) => reader.sysfs(&self.sysfs, device.unwrap())?,
        };
        let regions = match &self.regions {
            Some(path) => RegionList::read(path)?,
            None => RegionList::unknown(),
        };
        let tdisp = self.report.as_deref().map(TdispReport::read);
        device.bars(&regions)?.report(&ReportOptions {
            tdisp: tdisp.transpose()?,
            ..ReportOptions::new(PageSize::Size4K)
        })
    }

    /// Returns the report. Panics without one.
    fn made(&self) -> BarReport {
        self.run()
            .unwrap_or_else(|error| panic!("{}", with_causes(&error)))
    }

    /// Returns the report as JSON.
    pub fn bars(&self) -> Value {
        self.made().to_json()
    }

    /// Returns the report as JSON, and all notes. The notes of a BAR begin with
    /// its name.
    pub fn bars_and_notes(&self) -> (Value, Vec<String>) {
        let report = self.made();
        let notes = report.notes.iter().map(|note| match note.bar {
            Some(bar) => format!("{bar}: {note}"),
            None => note.to_string(),
        });
        (report.to_json(), notes.collect())
    }

    /// Returns the report as text.
    pub fn text(&self) -> String {
        self.made().to_text()
    }

    /// Returns the error in one line.
    pub fn failure(&self) -> String {
        match self.run() {
            Ok(report) => panic!("{}", report.to_text()),
            Err(error) => with_causes(&error),
        }
    }
}

/// Returns the path of a file in `tests/cases`.
pub fn case(name: &str) -> String {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    cases.join(name).to_str().unwrap().to_string()
}
