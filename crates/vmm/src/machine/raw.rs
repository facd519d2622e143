// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The TOML form of machine files, every field with its place in the file.

use std::num::NonZeroU16;

use serde::Deserialize;
use toml::Spanned;

use super::number::Number;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawMachine {
    pub(super) name: Option<Spanned<String>>,
    pub(super) on_memory_fault: Option<Spanned<String>>,
    pub(super) plain_vm: Option<Spanned<bool>>,
    #[serde(default)]
    pub(super) region: Vec<Spanned<RawRegion>>,
    #[serde(default)]
    pub(super) step: Vec<Spanned<RawStep>>,
}

/// A `[[region]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawRegion {
    pub(super) name: Spanned<String>,
    pub(super) kind: Spanned<String>,
    pub(super) r#in: Option<Spanned<String>>,
    pub(super) at: Option<Spanned<Number>>,
    pub(super) size: Option<Spanned<Number>>,
    pub(super) priority: Option<Spanned<i32>>,
    pub(super) enabled: Option<bool>,
    pub(super) readonly: Option<bool>,
    pub(super) backing: Option<Spanned<String>>,
    pub(super) device: Option<Spanned<String>>,
    pub(super) bar: Option<Spanned<u8>>,
    pub(super) tdi: Option<Spanned<String>>,
    pub(super) mmap: Option<Spanned<bool>>,
    pub(super) target: Option<Spanned<String>>,
    pub(super) offset: Option<Spanned<Number>>,
    pub(super) init: Option<Spanned<Vec<RawInit>>>,
    pub(super) msix_table: Option<Spanned<RawSpan>>,
    pub(super) msix_pba: Option<Spanned<RawSpan>>,
    pub(super) private: Option<Spanned<Vec<RawSpan>>>,
    pub(super) shared: Option<Spanned<Vec<RawSpan>>>,
    pub(super) repeat: Option<Spanned<Repeat>>,
}

/// A `[[step]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawStep {
    pub(super) r#do: Spanned<String>,
    pub(super) at: Option<Spanned<Number>>,
    pub(super) size: Option<Spanned<Number>>,
    pub(super) value: Option<Spanned<Number>>,
    pub(super) expect: Option<Spanned<Number>>,
    pub(super) tries: Option<Spanned<NonZeroU16>>,
    pub(super) how: Option<Spanned<String>>,
    pub(super) region: Option<Spanned<String>>,
    pub(super) to: Option<Spanned<Number>>,
    pub(super) on: Option<Spanned<bool>>,
    pub(super) state: Option<Spanned<String>>,
    pub(super) fails: Option<Spanned<String>>,
    pub(super) repeat: Option<Spanned<Repeat>>,
}

/// A value at an offset.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInit {
    pub(super) at: Spanned<Number>,
    pub(super) value: Spanned<Number>,
    pub(super) size: Option<Spanned<Number>>,
}

/// A part of a BAR.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSpan {
    pub(super) at: Spanned<Number>,
    pub(super) size: Spanned<Number>,
}

/// The same thing several times: `{}` in names becomes 0, 1, 2, …
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Repeat {
    /// How often.
    pub(super) count: NonZeroU16,
    /// What is added to `at` each time.
    #[serde(default = "nothing")]
    pub(super) stride: Number,
    /// What is added to values and expectations each time.
    #[serde(default = "nothing")]
    pub(super) add: Number,
}

fn nothing() -> Number {
    Number(0)
}
