// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Splits the BARs into pieces according to the user's choices, and finds other choices that also
//! fit.

use vfio_private::{
    ClassifyError, OffsetRule, PageSize, Piece, PlacedReport, Policy, TeeMsixPolicy, classify,
};

use crate::device_bars::{DeviceBars, KnownBar};
use crate::error::{BarReportError, Fault};
use crate::report::note::{Note, Topic};
use crate::report::tdisp_notes::{
    left_out, left_to_guest, locked_elsewhere, locked_open, updatable,
};
use crate::report::{BarReport, ClassifiedBar};
use crate::sources::tdisp::TdispReport;

/// The field of the MSI-X control register that holds the number of vectors minus one.
const MSIX_VECTORS: u16 = 0x7ff;

/// The options of a [`BarReport`], in addition to the [`DeviceBars`].
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// The page size of the host.
    pub page: PageSize,
    /// The TDISP report of the device. Without it no byte is private.
    pub tdisp: Option<TdispReport>,
    /// The rule that converts the TDISP report's pages to offsets.
    pub rule: OffsetRule,
    /// The treatment of MSI-X structures that the TDISP report marks as locked.
    pub locked_msix: TeeMsixPolicy,
}

impl ReportOptions {
    /// Creates options without a TDISP report and with the default choices of `vmm bars`: offsets
    /// are relative, and locked MSI-X structures are an error.
    pub const fn new(page: PageSize) -> Self {
        Self {
            page,
            tdisp: None,
            rule: OffsetRule::Relative,
            locked_msix: TeeMsixPolicy::Refuse,
        }
    }
}

impl DeviceBars {
    /// Splits every BAR into pieces, and notes the assumptions.
    ///
    /// # Errors
    /// [`BarReportError`] if a BAR cannot be split. The error names other options that would avoid
    /// it.
    pub fn report(&self, options: &ReportOptions) -> Result<BarReport, BarReportError> {
        let subject = Subject {
            device: self,
            page: options.page,
            report: options.tdisp.as_ref(),
        };
        let (pieces, of_report) = subject.cut(Choice {
            rule: options.rule,
            locked_msix: options.locked_msix,
        })?;
        let of_bar = |(known, pieces): (&KnownBar, Vec<Piece>)| ClassifiedBar {
            bar: known.bar,
            memory_type: known.memory_type,
            is_enhanced: known.is_enhanced,
            pieces,
        };
        let notes = [
            vec![self.region_note.clone()],
            of_report,
            self.notes.clone(),
        ];
        Ok(BarReport {
            name: self.name.clone(),
            page: options.page,
            regions: self.region_source.clone(),
            msix: self.msix,
            bars: self.bars.iter().zip(pieces).map(of_bar).collect(),
            unsized_io: self.unsized_io.clone(),
            notes: notes.concat(),
        })
    }
}

/// The inputs that decide the pieces, except the choices.
struct Subject<'a> {
    device: &'a DeviceBars,
    page: PageSize,
    report: Option<&'a TdispReport>,
}

/// The choices of [`ReportOptions`].
#[derive(Clone, Copy)]
struct Choice {
    rule: OffsetRule,
    locked_msix: TeeMsixPolicy,
}

/// The pieces of each BAR.
type Pieces = Vec<Vec<Piece>>;

/// Returns the name of the rule for a note.
const fn name(rule: OffsetRule) -> &'static str {
    match rule {
        OffsetRule::Relative => "relative",
        OffsetRule::Masked => "masked",
    }
}

impl Choice {
    fn with_other_rule(self) -> Self {
        let rule = match self.rule {
            OffsetRule::Relative => OffsetRule::Masked,
            OffsetRule::Masked => OffsetRule::Relative,
        };
        Self { rule, ..self }
    }
}

impl Subject<'_> {
    /// Returns the pieces by `choice`, and notes about the TDISP report.
    ///
    /// The report also fits by the other rule if the classifier can split every BAR by that rule.
    fn cut(&self, choice: Choice) -> Result<(Pieces, Vec<Note>), BarReportError> {
        let Some(report) = self.report else {
            let none = format!("{}: nothing is private", self.device.wording.no_report);
            let pieces = self.pieces(None, choice);
            let pieces = pieces.map_err(|source| self.misfit(source, None))?;
            return Ok((pieces, vec![Note::new(Topic::Report, none)]));
        };
        self.check_vectors(report)?;
        let other = choice.with_other_rule();
        let by_other = self.by(report, other).ok();
        let (pieces, placed) = match self.by(report, choice) {
            Ok(fits) => fits,
            Err(error) => {
                let fits = by_other.is_some().then_some(other);
                return Err(self.with_hints(error, report, choice, fits));
            }
        };
        let used = format!("report, offsets {}", name(choice.rule));
        let mut notes = vec![Note::new(Topic::Report, used)];
        if let Some((other_pieces, _)) = by_other {
            notes.extend(self.ambiguity(&pieces, &other_pieces, other.rule));
        }
        notes.extend(left_out(placed.left_out()));
        notes.extend(locked_elsewhere(placed.left_out()));
        for (mapped, pieces) in self.device.bars.iter().zip(&pieces) {
            let index = mapped.bar.index();
            notes.extend(locked_open(index, placed.of(index)));
            notes.extend(left_to_guest(index, pieces));
            notes.extend(updatable(index, &report.report.ranges));
        }
        Ok((pieces, notes))
    }

    /// Checks that the report's copy of the MSI-X control register has the device's number of
    /// vectors. The copy is 0 if the device does not report it.
    fn check_vectors(&self, report: &TdispReport) -> Result<(), BarReportError> {
        let (Some(msix), control @ 1..) = (self.device.msix, report.report.msix_control) else {
            return Ok(());
        };
        let reported = u128::from(control & MSIX_VECTORS) + 1;
        let vectors = msix.table.range.size() / 16;
        if reported == vectors {
            return Ok(());
        }
        let what = format!(
            "the report says that MSI-X has {reported} vectors (offset 0x4), and the device has \
             {vectors} ({}): is it of another device?",
            self.device.msix_place
        );
        Err(Fault::whole(what).in_file(&report.file))
    }

    fn by(
        &self,
        report: &TdispReport,
        choice: Choice,
    ) -> Result<(Pieces, PlacedReport), BarReportError> {
        let bars: Vec<_> = self.device.bars.iter().map(|mapped| mapped.bar).collect();
        let placed = report.report.place(&bars, choice.rule);
        let placed = placed.map_err(|source| BarReportError::Place {
            file: report.file.clone(),
            rule: choice.rule,
            name: self.device.wording.rule(choice.rule),
            source,
        })?;
        match self.pieces(Some(&placed), choice) {
            Ok(pieces) => Ok((pieces, placed)),
            Err(source) => Err(self.misfit(source, Some(report))),
        }
    }

    /// Adds the place of the fact that contradicts the others to the error.
    fn misfit(&self, source: ClassifyError, report: Option<&TdispReport>) -> BarReportError {
        let place = match (&source, report) {
            (ClassifyError::SparseAreaOutsideBar { .. }, _) => self.device.region_place.clone(),
            (
                ClassifyError::MsixOutsideBar { .. }
                | ClassifyError::MsixInIoBar { .. }
                | ClassifyError::NoRoomForMsix { .. },
                _,
            )
            | (_, None) => self.device.msix_place.to_string(),
            (_, Some(report)) => report.file.clone(),
        };
        BarReportError::Classify { place, source }
    }

    fn pieces(
        &self,
        placed: Option<&PlacedReport>,
        choice: Choice,
    ) -> Result<Pieces, ClassifyError> {
        let policy = Policy::new().with_tee_msix(choice.locked_msix);
        let of_bar = |mapped: &KnownBar| {
            let report = placed.map(|placed| placed.of(mapped.bar.index()));
            let input = mapped.input().with_report(report);
            classify(&input, self.page, policy)
        };
        self.device.bars.iter().map(of_bar).collect()
    }

    /// Adds the other choices that would avoid the error.
    fn with_hints(
        &self,
        error: BarReportError,
        report: &TdispReport,
        choice: Choice,
        other: Option<Choice>,
    ) -> BarReportError {
        let left = Choice {
            locked_msix: TeeMsixPolicy::Private,
            ..choice
        };
        let is_locked = matches!(
            error,
            BarReportError::Classify {
                source: ClassifyError::MsixLocked { .. },
                ..
            }
        );
        let mut hints = Vec::new();
        if is_locked && self.by(report, left).is_ok() {
            let private = self.device.wording.private_msix;
            hints.push(format!("{private} leaves it to the guest"));
        }
        if let Some(other) = other {
            let other = self.device.wording.rule(other.rule);
            hints.push(format!("the report fits by {other}"));
        }
        match hints.is_empty() {
            true => error,
            false => BarReportError::Avoidable {
                error: Box::new(error),
                hint: hints.join("; "),
            },
        }
    }

    /// Notes that the other rule also fits, if its pieces differ.
    fn ambiguity(&self, pieces: &Pieces, other: &Pieces, rule: OffsetRule) -> Option<Note> {
        let each = self.device.bars.iter().zip(pieces.iter().zip(other));
        let differing = each.filter(|(_, (pieces, other))| pieces != other);
        let names: Vec<String> = differing
            .map(|(mapped, _)| mapped.bar.index().to_string())
            .collect();
        (!names.is_empty()).then(|| {
            let text = format!(
                "The report fits by {} too, at other offsets of {}: \
                 which is right depends on the device.",
                self.device.wording.rule(rule),
                names.join(" and ")
            );
            Note::new(Topic::Report, text)
        })
    }
}
