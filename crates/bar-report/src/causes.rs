// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An error together with what led to it.

use std::error::Error;

/// The error's own words and those of all its sources, in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
