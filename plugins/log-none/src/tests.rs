use wharf_plugin_sdk::conformance::{self, Subject};

use super::*;

#[test]
fn conforms() {
    conformance::codec(&Subject::<dyn Codec>::new(|| Box::new(Nothing)));
}
