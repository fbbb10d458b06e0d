"""The sources of a language-model actor that differs from its policy; `kinds` lists them."""
