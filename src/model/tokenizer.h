// Text for people: a prompt becomes tokens, and tokens become words that can be read aloud. Not a
// real tokenizer: one byte is one token, and a token's word is spelled from its id, so that two
// answers can be compared by eye.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/synthetic_model.h"

namespace mooncake {

/// One token per byte of `text`, 0 to 255: any text, also invalid UTF-8, and every vocabulary of at
/// least 256.
[[nodiscard]] std::vector<Token> TokenizeText(std::string_view text);

/// A space and a pronounceable word in lower-case ASCII, at most 11 bytes. Two tokens never share
/// one.
[[nodiscard]] std::string TokenText(Token token);

}  // namespace mooncake
