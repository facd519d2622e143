// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who answers an access that came to the VMM; which accesses a trapped region
//! takes, and which of its device's carry one out.

pub(crate) mod parts;
pub(crate) mod plan;
pub(crate) mod responder;
pub(crate) mod rules;
