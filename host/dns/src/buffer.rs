//! Room for one datagram, the thread's own: sockets that wait need none.

use std::cell::RefCell;

/// The longest message.
const LONGEST: usize = 65_535;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; LONGEST]);
}

/// Lends it.
pub(crate) fn with<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => work(&mut buffer),
        // Lent already, further up.
        Err(_) => work(&mut vec![0; LONGEST]),
    })
}
