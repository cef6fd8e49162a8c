//! The program of the embedded `hello` image.
#![no_std]
#![no_main]

mod kernel;

const TEXT: &[u8] = b"Hello from Wharf!

You see this text because every part did its work:
 1. the client asked the daemon for a container of the image `hello`, which is built into Wharf;
 2. plugins, WebAssembly components in a sandbox, planned its root file system and its network;
 3. the daemon checked the plans and carried them out;
 4. the keeper started this program in namespaces of its own, and its output came back to you.

Next: `wharf import` a root file system of yours, then `wharf run -it IMAGE sh`.
";

#[unsafe(no_mangle)]
extern "C" fn entry(_stack: *const usize) -> ! {
    kernel::exit(if kernel::print(1, TEXT) { 0 } else { 1 })
}
