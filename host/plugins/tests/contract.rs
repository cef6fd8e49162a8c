//! The contract in `wit/` and the host's types are the same thing.

mod common;

use common::{Guest, House};
use wharf_plugins::{Kind, State};

#[tokio::test]
async fn every_function_of_every_kind_has_the_type_that_the_host_calls() {
    let interfaces: Vec<&str> = Kind::ALL.iter().map(|kind| kind.interface()).collect();
    let house = House::new().with(&Guest::new("all", &interfaces));
    let plugins = house.load().await;
    let list = plugins.list();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].state, State::Ready);
    assert_eq!(list[0].kinds, Kind::ALL);
}
