# cmake -DFROM=page.html -DTO=page.h -P EmbedText.cmake: the text as mooncake::kPage.
file(READ ${FROM} text)
# A string literal may have 65,536 characters at most; pieces are joined by the compiler.
set(pieces "")
string(LENGTH "${text}" length)
set(at 0)
while(at LESS length)
  string(SUBSTRING "${text}" ${at} 8000 piece)
  string(APPEND pieces "R\"page(${piece})page\"\n")
  math(EXPR at "${at} + 8000")
endwhile()
file(WRITE ${TO} "#pragma once\n#include <string_view>\nnamespace mooncake {\ninline constexpr std::string_view kPage =\n${pieces};\n}  // namespace mooncake\n")
