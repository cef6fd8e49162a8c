//! Containers from start to end.

mod rig;

use rig::*;
use wharf_plan::run::*;

#[tokio::test]
async fn runs_and_ends() {
    let mut rig = Rig::new().await;
    let out = rig.sh("echo hello; hostname; exit 7").await;
    assert_eq!((out.text.as_str(), out.status.code, out.status.signal), ("hello\nbox\n", 7, None));
    let out = rig.sh("kill -9 $$").await;
    // Process 1 cannot kill itself.
    assert_eq!(out.status.code, 0);
    rig.finish().await;
}
