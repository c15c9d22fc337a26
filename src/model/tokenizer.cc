#include "model/tokenizer.h"

#include <algorithm>

namespace mooncake {
namespace {

constexpr std::string_view kConsonants = "bcdfghjklmnprstvwxyz";
constexpr std::string_view kVowels = "aeiou";
constexpr Token kSyllables = static_cast<Token>(kConsonants.size() * kVowels.size());
static_assert(kSyllables == 100, "a syllable spells two decimal digits");

}  // namespace

std::vector<Token> TokenizeText(std::string_view text) {
  std::vector<Token> tokens(text.size());
  std::transform(text.begin(), text.end(), tokens.begin(),
                 [](char c) { return static_cast<unsigned char>(c); });
  return tokens;
}

// The id in base 100, most significant syllable first, without leading zeros: every syllable has
// two letters, so the word tells the id.
std::string TokenText(Token token) {
  std::string reversed;
  do {
    const Token syllable = token % kSyllables;
    reversed += kVowels[syllable % kVowels.size()];
    reversed += kConsonants[syllable / kVowels.size()];
    token /= kSyllables;
  } while (token > 0);
  return " " + std::string(reversed.rbegin(), reversed.rend());
}

}  // namespace mooncake
