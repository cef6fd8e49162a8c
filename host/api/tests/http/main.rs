//! The API from outside: over sockets, byte by byte, in front of a stand-in for the engine.

#[cfg(test)]
mod client;
#[cfg(test)]
mod gate;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod stub;
