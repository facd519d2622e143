// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks single fields, with errors that name them.

use std::ops::Range;

use toml::Spanned;

use super::error::{MachineError, Source};
use super::number::Number;
use super::raw::{RawSpan, Repeat};

/// The region or step whose fields are checked.
pub(super) struct Subject<'a> {
    pub(super) source: &'a Source<'a>,
    /// In words: `region 'ram'`, `step 3`.
    pub(super) name: String,
    /// Its place in the file.
    pub(super) span: Range<usize>,
    /// The number of this repetition, and the `repeat` field.
    pub(super) index: u64,
    pub(super) repeat: Option<Repeat>,
}

/// An optional field with its name in the file.
pub(super) type Field<'a, T> = (&'static str, &'a Option<Spanned<T>>);

impl<'a> Subject<'a> {
    /// The machine as a whole.
    pub(super) fn of_file(source: &'a Source<'a>) -> Self {
        Self {
            source,
            name: String::new(),
            span: 0..0,
            index: 0,
            repeat: None,
        }
    }
}

impl Subject<'_> {
    /// An error of the field at `span`.
    pub(super) fn wrong(&self, field: &str, span: Range<usize>, problem: String) -> MachineError {
        MachineError {
            file: self.source.file.to_string(),
            line: Some(self.source.line(span.start)),
            subject: self.name.clone(),
            field: Some(field.to_string()),
            problem,
        }
    }

    /// An error of a missing field.
    pub(super) fn missing(&self, field: &str, why: &str) -> MachineError {
        self.wrong(field, self.span.clone(), format!("is missing: {why}"))
    }

    /// A field that must be there.
    pub(super) fn need<'f, T>(
        &self,
        (name, field): Field<'f, T>,
        why: &str,
    ) -> Result<&'f Spanned<T>, MachineError> {
        field.as_ref().ok_or_else(|| self.missing(name, why))
    }

    /// A field that must not be there.
    pub(super) fn refuse<T>(
        &self,
        (name, field): Field<'_, T>,
        why: &str,
    ) -> Result<(), MachineError> {
        match field {
            Some(field) => Err(self.wrong(name, field.span(), format!("does not go with {why}"))),
            None => Ok(()),
        }
    }

    /// A number below 2^64: `field`, plus `step` for each repetition.
    pub(super) fn number(
        &self,
        name: &str,
        field: &Spanned<Number>,
        step: fn(&Repeat) -> Number,
    ) -> Result<u64, MachineError> {
        let step = self.repeat.as_ref().map_or(0, |repeat| step(repeat).0);
        let number = step.checked_mul(self.index.into());
        let number = number.and_then(|more| field.as_ref().0.checked_add(more));
        let number = number.and_then(|n| u64::try_from(n).ok());
        number.ok_or_else(|| self.wrong(name, field.span(), "is not below 2^64".into()))
    }

    /// A number below 2^64 that is the same for every repetition.
    pub(super) fn fixed(&self, name: &str, field: &Spanned<Number>) -> Result<u64, MachineError> {
        self.number(name, field, |_| Number(0))
    }

    /// How many bytes a load or store has.
    pub(super) fn width(
        &self,
        field: &Option<Spanned<Number>>,
        default: usize,
    ) -> Result<usize, MachineError> {
        let Some(field) = field else {
            return Ok(default);
        };
        match field.as_ref().0 {
            1 => Ok(1),
            2 => Ok(2),
            4 => Ok(4),
            8 => Ok(8),
            n => Err(self.wrong(
                "size",
                field.span(),
                format!("{n} is none of 1, 2, 4 and 8"),
            )),
        }
    }

    /// A value that a load or store of `size` bytes can have.
    pub(super) fn value(
        &self,
        name: &str,
        field: &Spanned<Number>,
        size: usize,
    ) -> Result<u64, MachineError> {
        let value = self.number(name, field, |repeat| repeat.add)?;
        match size < 8 && value >> (8 * size) != 0 {
            true => {
                let problem = format!("{value:#x} is larger than {size} bytes");
                Err(self.wrong(name, field.span(), problem))
            }
            false => Ok(value),
        }
    }

    /// Offset and size of a part that is not empty and does not wrap.
    pub(super) fn part(&self, name: &str, part: &RawSpan) -> Result<(u64, u64), MachineError> {
        let (at, size) = (self.fixed(name, &part.at)?, self.fixed(name, &part.size)?);
        match size.checked_sub(1).and_then(|more| at.checked_add(more)) {
            Some(_) => Ok((at, size)),
            None => Err(self.wrong(name, part.size.span(), "is empty, or ends past 2^64".into())),
        }
    }

    /// One of several words.
    pub(super) fn word<T: Copy>(
        &self,
        name: &str,
        field: &Spanned<String>,
        words: &[(&str, T)],
    ) -> Result<T, MachineError> {
        let found = words.iter().find(|(word, _)| word == field.as_ref());
        found.map(|(_, value)| *value).ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let problem = format!("'{}' is none of: {}", field.as_ref(), known.join(", "));
            self.wrong(name, field.span(), problem)
        })
    }

    /// A name, with the number of the repetition for `{}`.
    pub(super) fn numbered(&self, text: &str) -> String {
        match self.repeat {
            Some(_) => text.replace("{}", &self.index.to_string()),
            None => text.to_string(),
        }
    }
}
