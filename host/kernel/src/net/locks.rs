//! Tables of other programs that died with the network shut.

use std::sync::Arc;

use super::Error;
use super::nft;
use super::wire::{Batch, Socket, attribute, text};

/// Removes the tables whose names begin so (for both IP families, `inet`) from the packet filter of the calling thread's network
/// namespace, and answers how many there were.
///
/// # Errors
/// There is no packet filter, or it refuses.
pub fn remove_tables(prefix: &str) -> Result<usize, Error> {
    let mut socket = Socket::open(libc::NETLINK_NETFILTER)?;
    let mut found = Vec::new();
    let mut batch = Batch::of(&Arc::from(prefix));
    nft::list_tables(&mut batch);
    socket
        .ask(&batch, |_, body| {
            let name = body.get(4..).and_then(|rest| attribute(rest, 1)).map(text);
            found.extend(name.filter(|name| name.starts_with(prefix)));
        })
        .map_err(|failure| failure.error)?;
    for name in &found {
        let mut batch = nft::begin(&Arc::from(name.as_str()));
        nft::delete_table(&mut batch);
        if let Some(failure) = nft::end(&mut socket, batch)?.into_iter().next() {
            return Err(failure.error);
        }
    }
    Ok(found.len())
}

#[cfg(test)]
mod tests {
    use crate::sys::process::{CLONE_NEWNET, unshare};

    #[test]
    fn tables_of_a_program_that_died() {
        let work = || {
            unshare(CLONE_NEWNET).unwrap();
            let nft = |args: &str| {
                let output = std::process::Command::new("nft").args(args.split(' ')).output().unwrap();
                assert!(output.status.success(), "{output:?}");
                String::from_utf8(output.stdout).unwrap()
            };
            for table in ["CRIU-1", "CRIU-abc", "mine"] {
                nft(&format!("add table inet {table}"));
            }
            nft("add chain inet CRIU-1 input { type filter hook input priority 0 ; policy drop ; }");
            assert_eq!(super::remove_tables("CRIU-").unwrap(), 2);
            assert_eq!(nft("list tables").trim(), "table inet mine");
            assert_eq!(super::remove_tables("CRIU-").unwrap(), 0);
        };
        std::thread::spawn(work).join().unwrap();
    }
}
