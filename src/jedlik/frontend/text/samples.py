"""Text in many scripts, with odd white space, code and emoji: what a tokenizer is checked on when it is loaded."""

SAMPLES: tuple[str, ...] = (
    "The quick brown fox doesn't jump over the lazy dog; it'll wait, we're told, until 12:30 on 24/12/2026.\n\n",
    "  Then   three spaces,\ttabs\t\tand trailing blanks   \n \n\r\nEND 1234567890 3.14159 a1b2 c-d e_f (g) [h] {i}!",
    "def f(x: int) -> str:\n    '''Doc.'''\n    return f\"{x:>08b}\" "
    "if x else ''  # 0xFF != 1e-9\n\n\tclass A:\n\t\tpass\n",
    "A gyors barna róka átugrik a lusta kutyán. Árvíztűrő tükörfúrógép! "
    "Größe, straße, naïve café, Ærøskøbing, İstanbul",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "敏捷的棕色狐狸跳过了懒狗。今天天气很好，我们去公园散步吧！"
    "いろはにほへと ちりぬるを。カタカナ、ｶﾀｶﾅ 다람쥐 헌 쳇바퀴에 타고파",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر שלום עולם सभी मनुष्य जन्म से स्वतंत्र हैं ภาษาไทยไม่มีการเว้นวรรค",
    "👩‍👩‍👧‍👦 family, flags 🇭🇺🇯🇵, skin 👍🏽, hearts ❤️❤, zero\u200bwidth, nbsp\u00a0here, "
    "e\u0301 vs é, \ufb01 ligature, 𝒜𝓁𝓅𝒽𝒶 \u2028 x\u3000y",
    "I'M SHOUTING; YOU'RE NOT? O'Brien's 'quoted' ''double'' d'accord l’été “curly” — dash – en … ellipsis ½ ² ٣ Ⅷ",
)
