// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Formats the messages of an error and of its sources.

use std::error::Error;

/// Joins the messages of the error and of all its sources in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
