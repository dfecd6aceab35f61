//! The system, told as stories with real processes.
