"""llmc beside its peers on one machine, in one sitting; see README.md."""
