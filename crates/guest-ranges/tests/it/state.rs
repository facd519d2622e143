// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ranges and sets as data.

use std::fmt::Debug;

use guest_ranges::{AddrRange, GuestMemfdSides, PageRange, PageSet, PageState};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn read<T: DeserializeOwned + Debug>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn refused<T: DeserializeOwned + Debug>(text: &str, because: &str) {
    let error = read::<T>(text).unwrap_err();
    assert!(error.contains(because), "{error}");
}

#[test]
fn the_form_of_each_type_is_fixed() {
    let form = |value: &dyn erased::Value, text: &str| assert_eq!(value.json(), text);
    let range = AddrRange::new(0x1000, 0x2000).unwrap();
    form(&range, r#"{"start":4096,"last":12287}"#);
    form(
        &AddrRange::ALL,
        r#"{"start":0,"last":18446744073709551615}"#,
    );
    form(
        &PageRange::new(0x1000, 0x2000).unwrap(),
        r#"{"gpa":4096,"size":8192}"#,
    );
    form(&PageState::Private, r#""private""#);
    form(&GuestMemfdSides::Both, r#""both""#);
    let mut set = PageSet::new();
    form(&set, "[]");
    set.insert(range);
    form(&set, r#"[{"start":4096,"last":12287}]"#);
}

mod erased {
    pub trait Value {
        fn json(&self) -> String;
    }
    impl<T: super::Serialize> Value for T {
        fn json(&self) -> String {
            serde_json::to_string(self).unwrap()
        }
    }
}

#[test]
fn data_that_breaks_a_rule_is_refused() {
    refused::<AddrRange>(r#"{"start":2,"last":1}"#, "from 0x2 back to 0x1");
    refused::<AddrRange>(r#"{"start":0,"last":-1}"#, "integer `-1`");
    refused::<AddrRange>(r#"{"start":0,"last":1,"size":2}"#, "unknown field");
    refused::<PageRange>(r#"{"gpa":0,"size":0}"#, "no pages at 0x0");
    refused::<PageRange>(r#"{"gpa":0,"size":512}"#, "not whole pages");
    refused::<PageRange>(r#"{"gpa":18446744073709547520,"size":4096}"#, "2^64");
    let half = r#"[{"start":0,"last":4096}]"#;
    refused::<PageSet>(half, "does not consist of whole pages");
    let twice = r#"[{"start":0,"last":8191},{"start":4096,"last":8191}]"#;
    refused::<PageSet>(twice, "does not follow the range before it");
    refused::<PageState>(r#""accepted""#, "unknown variant");
}

proptest! {
    #[test]
    fn a_set_is_the_same_after_it_was_written_and_read(
        pages in prop::collection::vec((0..20_000_u64, 1..5000_u64), 0..20),
    ) {
        let mut set = PageSet::new();
        for (page, count) in pages {
            set.insert(AddrRange::new(page * 4096, (count * 4096).into()).unwrap());
        }
        let text = serde_json::to_string(&set).unwrap();
        prop_assert_eq!(read::<PageSet>(&text).unwrap(), set);
    }
}
