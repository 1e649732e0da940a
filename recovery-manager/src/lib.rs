//! Coordinates one recovery, from failure notice to re-splice.
