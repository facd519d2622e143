// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks the steps of a machine file.

use std::collections::{HashMap, HashSet};

use memory_model::PAGE_SIZE;
use toml::Spanned;

use super::action::{Action, ActionKind, ErrorCode, GpaRange, TdiChange};
use super::error::{MachineError, Source};
use super::fields::Subject;
use super::limits::{Budget, MAX_CONVERTED, MAX_PAGES, MAX_STEPS, MAX_TRIES};
use super::number::Number;
use super::raw::RawStep;
use super::spec::{Access, AccessKind, How, Kind, Region, Step};

/// Checks the file's steps.
pub(super) fn check(
    source: &Source<'_>,
    regions: &[Region],
    raws: &[Spanned<RawStep>],
) -> Result<Vec<Step>, MachineError> {
    let names = regions.iter().enumerate();
    let by_name: HashMap<&str, usize> = names.map(|(i, r)| (r.name.as_str(), i)).collect();
    let mut steps = Vec::new();
    let mut totals = Totals::new();
    for (number, spanned) in raws.iter().enumerate() {
        let raw = spanned.as_ref();
        let repeat = raw.repeat.as_ref().map(|repeat| repeat.as_ref().clone());
        for index in 0..repeat.as_ref().map_or(1, |repeat| repeat.count.get()) {
            let subject = Subject {
                source,
                name: format!("step {} ({})", number + 1, raw.r#do.as_ref()),
                span: spanned.span(),
                index: index.into(),
                repeat: repeat.clone(),
            };
            if steps.len() >= MAX_STEPS {
                let problem = format!("there are more than {MAX_STEPS} steps");
                return Err(subject.wrong("do", raw.r#do.span(), problem));
            }
            let reader = Reader {
                subject,
                regions,
                by_name: &by_name,
                raw,
            };
            let step = reader.step()?;
            totals.count(&reader, &step)?;
            steps.push(step);
        }
    }
    Ok(steps)
}

/// The totals of the steps so far.
struct Totals {
    tries: Budget,
    pages: Budget,
    converted: Budget,
    /// The pages counted since an action last changed the memory map.
    touched: HashSet<u64>,
}

impl Totals {
    fn new() -> Self {
        Self {
            tries: Budget::new(MAX_TRIES, "tries of reads"),
            pages: Budget::new(MAX_PAGES, "pages that steps touch"),
            converted: Budget::new(MAX_CONVERTED, "pages that steps convert"),
            touched: HashSet::new(),
        }
    }

    fn count(&mut self, reader: &Reader<'_>, step: &Step) -> Result<(), MachineError> {
        match step {
            Step::Guest(access) => {
                self.count_tries(reader, access)?;
                self.count_touched(reader, access.gpa, access.size)
            }
            Step::Vmm(action) => match action.what {
                ActionKind::HostRead { gpa, size, .. }
                | ActionKind::HostWrite { gpa, size, .. } => self.count_touched(reader, gpa, size),
                ActionKind::Convert { span, .. } | ActionKind::Accept(span) => {
                    self.touched.clear();
                    self.count_converted(reader, span)
                }
                _ => {
                    self.touched.clear();
                    Ok(())
                }
            },
        }
    }

    fn count_tries(&mut self, reader: &Reader<'_>, access: &Access) -> Result<(), MachineError> {
        let Some(tries) = &reader.raw.tries else {
            return Ok(());
        };
        let taken = self.tries.take(access.tries.into());
        taken.map_err(|problem| reader.subject.wrong("tries", tries.span(), problem))
    }

    fn count_touched(
        &mut self,
        reader: &Reader<'_>,
        gpa: u64,
        size: usize,
    ) -> Result<(), MachineError> {
        let last = gpa.saturating_add(size as u64 - 1);
        let pages = gpa / PAGE_SIZE..=last / PAGE_SIZE;
        let new = pages.filter(|&page| self.touched.insert(page)).count();
        let taken = self.pages.take(new as u64);
        taken.map_err(|problem| reader.wrong("at", &reader.raw.at, problem))
    }

    fn count_converted(&mut self, reader: &Reader<'_>, span: GpaRange) -> Result<(), MachineError> {
        let taken = self.converted.take(span.size / PAGE_SIZE);
        taken.map_err(|problem| reader.wrong("size", &reader.raw.size, problem))
    }
}

/// Reads one step.
struct Reader<'a> {
    subject: Subject<'a>,
    regions: &'a [Region],
    by_name: &'a HashMap<&'a str, usize>,
    raw: &'a RawStep,
}

impl Reader<'_> {
    /// The error of a field, or of the step if the field is missing.
    fn wrong(&self, name: &str, field: &Option<Spanned<Number>>, problem: String) -> MachineError {
        let whole = || self.subject.span.clone();
        let span = field.as_ref().map_or_else(whole, Spanned::span);
        self.subject.wrong(name, span, problem)
    }

    fn step(&self) -> Result<Step, MachineError> {
        let what = match self.raw.r#do.as_ref().as_str() {
            "read" | "write" => return Ok(Step::Guest(self.access()?)),
            "move" => ActionKind::Move {
                region: self.region()?,
                to: self.address("to", &self.raw.to)?,
            },
            "enable" | "disable" => ActionKind::Enable {
                region: self.region()?,
                on: self.raw.r#do.as_ref() == "enable",
            },
            "readonly" => ActionKind::ReadOnly {
                region: self.region()?,
                on: self.on()?,
            },
            "direct-reads" => ActionKind::DirectReads {
                region: self.rom_device()?,
                on: self.on()?,
            },
            "decode" => ActionKind::Decode {
                region: self.bar()?,
                on: self.on()?,
            },
            "reset" => ActionKind::Reset {
                region: self.bar()?,
            },
            "lock" | "start" | "stop" | "break" => ActionKind::Tdi {
                region: self.tdi_bar()?,
                change: self.tdi_change()?,
            },
            "accept" => ActionKind::Accept(self.span()?),
            "give-back" => ActionKind::GiveBack(self.span()?),
            "revoke" => ActionKind::Revoke(self.span()?),
            "convert" => ActionKind::Convert {
                span: self.span()?,
                private: self.private()?,
            },
            "host-read" => {
                let size = self.subject.width(&self.raw.size, 4)?;
                ActionKind::HostRead {
                    gpa: self.address("at", &self.raw.at)?,
                    size,
                    expect: self.expectation(size, self.raw.fails.is_some())?,
                }
            }
            "host-write" => {
                let size = self.subject.width(&self.raw.size, 4)?;
                ActionKind::HostWrite {
                    gpa: self.address("at", &self.raw.at)?,
                    size,
                    value: self.value(size)?,
                }
            }
            other => {
                let problem = format!(
                    "'{other}' is none of: read, write, move, enable, disable, readonly, \
                     direct-reads, decode, reset, lock, start, stop, break, accept, give-back, revoke, convert, host-read, host-write"
                );
                return Err(self.subject.wrong("do", self.raw.r#do.span(), problem));
            }
        };
        self.nothing_else(&what)?;
        let codes = ErrorCode::ALL.map(|code| (code.word(), code));
        let fails = match &self.raw.fails {
            Some(code) => Some(self.subject.word("fails", code, &codes)?),
            None => None,
        };
        Ok(Step::Vmm(Action { what, fails }))
    }

    fn access(&self) -> Result<Access, MachineError> {
        let why = "how is the access expected to be resolved?";
        let how = self.subject.need(("how", &self.raw.how), why)?;
        let words = [
            How::Direct,
            How::Mmio,
            How::RomWrite,
            How::MemoryFault,
            How::Error,
        ];
        let how = self
            .subject
            .word("how", how, &words.map(|how| (how.word(), how)))?;

        let subject = &self.subject;
        let size = subject.width(&self.raw.size, 4)?;
        let gpa = self.address("at", &self.raw.at)?;
        if let (None, Some(at)) = (gpa.checked_add(size as u64 - 1), &self.raw.at) {
            let problem = "the access would end past 2^64".into();
            return Err(subject.wrong("at", at.span(), problem));
        }
        let kind = if self.raw.r#do.as_ref() == "read" {
            if let (How::RomWrite, Some(field)) = (how, &self.raw.how) {
                let problem = "a read is no write to ROM".into();
                return Err(subject.wrong("how", field.span(), problem));
            }
            let completes = matches!(how, How::Direct | How::Mmio);
            subject.refuse(("value", &self.raw.value), "a read; it has 'expect'")?;
            if !completes {
                let why = "a read that does not complete";
                subject.refuse(("expect", &self.raw.expect), why)?;
            }
            let expect = self.expectation(size, !completes)?;
            if expect.is_none() {
                subject.refuse(("tries", &self.raw.tries), "a read without 'expect'")?;
            }
            AccessKind::Read(expect)
        } else {
            subject.refuse(("tries", &self.raw.tries), "a write")?;
            subject.refuse(("expect", &self.raw.expect), "a write; read it back")?;
            AccessKind::Write(self.value(size)?)
        };
        let word = "an access";
        subject.refuse(("region", &self.raw.region), word)?;
        subject.refuse(("to", &self.raw.to), word)?;
        subject.refuse(("on", &self.raw.on), word)?;
        let private = match self.raw.state {
            Some(_) => Some(self.private()?),
            None => None,
        };
        subject.refuse(("fails", &self.raw.fails), "an access; say 'how'")?;
        Ok(Access {
            gpa,
            size,
            kind,
            private,
            how,
            tries: self
                .raw
                .tries
                .as_ref()
                .map_or(1, |tries| tries.as_ref().get().into()),
        })
    }

    /// The expected value of a read, unless it is expected to fail.
    fn expectation(&self, size: usize, may_fail: bool) -> Result<Option<u64>, MachineError> {
        match &self.raw.expect {
            Some(expect) => self.subject.value("expect", expect, size).map(Some),
            None if may_fail => Ok(None),
            None => Err(self.subject.missing("expect", "which value is expected?")),
        }
    }

    fn value(&self, size: usize) -> Result<u64, MachineError> {
        let value = self
            .subject
            .need(("value", &self.raw.value), "which value?")?;
        self.subject.value("value", value, size)
    }

    fn address(
        &self,
        name: &'static str,
        field: &Option<Spanned<Number>>,
    ) -> Result<u64, MachineError> {
        let field = self.subject.need((name, field), "at which address?")?;
        self.subject.number(name, field, |repeat| repeat.stride)
    }

    fn region(&self) -> Result<usize, MachineError> {
        let field = self
            .subject
            .need(("region", &self.raw.region), "which region?")?;
        let name = self.subject.numbered(field.as_ref());
        let index = self.by_name.get(name.as_str()).copied();
        let wrong = |problem| Err(self.subject.wrong("region", field.span(), problem));
        match index {
            // The guest's own code is in it.
            Some(0) => wrong(format!(
                "'{name}' is all memory there is: it stays as it is"
            )),
            Some(index) => Ok(index),
            None => wrong(format!("there is no region '{name}'")),
        }
    }

    fn rom_device(&self) -> Result<usize, MachineError> {
        let index = self.region()?;
        match (&self.regions[index].kind, &self.raw.region) {
            (Kind::RomDevice, _) | (_, None) => Ok(index),
            (_, Some(field)) => {
                let problem = "only a rom-device has direct reads to switch".into();
                Err(self.subject.wrong("region", field.span(), problem))
            }
        }
    }

    fn bar(&self) -> Result<usize, MachineError> {
        let index = self.region()?;
        match (&self.regions[index].kind, &self.raw.region) {
            (Kind::Bar(_), _) | (_, None) => Ok(index),
            (_, Some(field)) => {
                let problem = "only a bar is of a device that can do so".into();
                Err(self.subject.wrong("region", field.span(), problem))
            }
        }
    }

    /// A BAR of a TEE device interface.
    fn tdi_bar(&self) -> Result<usize, MachineError> {
        let index = self.bar()?;
        match (&self.regions[index].kind, &self.raw.region) {
            (Kind::Bar(bar), Some(field)) if bar.tdi.is_none() => {
                let problem = "this bar has no 'tdi': it belongs to no interface".into();
                Err(self.subject.wrong("region", field.span(), problem))
            }
            _ => Ok(index),
        }
    }

    fn tdi_change(&self) -> Result<TdiChange, MachineError> {
        let words = TdiChange::ALL.map(|change| (change.word(), change));
        self.subject.word("do", &self.raw.r#do, &words)
    }

    fn span(&self) -> Result<GpaRange, MachineError> {
        let gpa = self.address("at", &self.raw.at)?;
        let size = self
            .subject
            .need(("size", &self.raw.size), "how many bytes?")?;
        let bytes = self.subject.fixed("size", size)?;
        match bytes.checked_sub(1).and_then(|more| gpa.checked_add(more)) {
            Some(_) => Ok(GpaRange { gpa, size: bytes }),
            None => {
                let problem = "is empty, or ends past 2^64".into();
                Err(self.subject.wrong("size", size.span(), problem))
            }
        }
    }

    fn on(&self) -> Result<bool, MachineError> {
        Ok(*self
            .subject
            .need(("on", &self.raw.on), "on or off?")?
            .as_ref())
    }

    fn private(&self) -> Result<bool, MachineError> {
        let state = self
            .subject
            .need(("state", &self.raw.state), "private or shared?")?;
        self.subject
            .word("state", state, &[("private", true), ("shared", false)])
    }

    /// Refuses fields that an action does not have.
    fn nothing_else(&self, what: &ActionKind) -> Result<(), MachineError> {
        use ActionKind::{
            Convert, Decode, DirectReads, Enable, HostRead, HostWrite, Move, ReadOnly, Reset, Tdi,
        };
        let (subject, raw) = (&self.subject, self.raw);
        let word = format!("'{}'", raw.r#do.as_ref());
        subject.refuse(("how", &raw.how), &word)?;
        subject.refuse(("tries", &raw.tries), &word)?;
        if !matches!(what, HostWrite { .. }) {
            subject.refuse(("value", &raw.value), &word)?;
        }
        if !matches!(what, HostRead { .. }) {
            subject.refuse(("expect", &raw.expect), &word)?;
        }
        if matches!(
            what,
            Move { .. }
                | Enable { .. }
                | ReadOnly { .. }
                | DirectReads { .. }
                | Decode { .. }
                | Reset { .. }
                | Tdi { .. }
        ) {
            subject.refuse(("at", &raw.at), &word)?;
            subject.refuse(("size", &raw.size), &word)?;
        } else {
            subject.refuse(("region", &raw.region), &word)?;
        }
        if !matches!(what, Move { .. }) {
            subject.refuse(("to", &raw.to), &word)?;
        }
        if !matches!(what, ReadOnly { .. } | DirectReads { .. } | Decode { .. }) {
            subject.refuse(("on", &raw.on), &word)?;
        }
        if !matches!(what, Convert { .. }) {
            subject.refuse(("state", &raw.state), &word)?;
        }
        Ok(())
    }
}
