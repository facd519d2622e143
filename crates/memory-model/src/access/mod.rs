// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which accesses a trapped region takes, and which of its device's carry one
//! out.

pub(crate) mod plan;
pub(crate) mod rules;
