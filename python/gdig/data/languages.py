"""Languages by their codes, for columns that are named for a language: en, de_DE, zho_Hans, sentence_eng_Latn."""

from __future__ import annotations

import re

_CODE = re.compile(r"([a-z]{2,3})(?:[-_](?:[A-Z]{2}|[A-Z][a-z]{3}|[0-9]{3}))*")

# Two-letter codes of ISO 639-1 with the three-letter codes that Flores and NLLB use for the same language.
_NAMES = """
aa aar Afar|ab abk Abkhazian|af afr Afrikaans|ak aka Akan|am amh Amharic|ar ara,arb Arabic|as asm Assamese|av ava Avaric
ay aym,ayr Aymara|az aze,azj Azerbaijani|ba bak Bashkir|be bel Belarusian|bg bul Bulgarian|bm bam Bambara
bn ben Bengali|bo bod Tibetan|br bre Breton|bs bos Bosnian|ca cat Catalan|ce che Chechen|co cos Corsican|cs ces Czech
cv chv Chuvash|cy cym Welsh|da dan Danish|de deu German|dv div Dhivehi|dz dzo Dzongkha|ee ewe Ewe|el ell Greek
en eng English|eo epo Esperanto|es spa Spanish|et est,ekk Estonian|eu eus Basque|fa fas,pes Persian|ff ful,fuv Fulah
fi fin Finnish|fj fij Fijian|fo fao Faroese|fr fra French|fy fry Western Frisian|ga gle Irish|gd gla Scottish Gaelic
gl glg Galician|gn grn,gug Guarani|gu guj Gujarati|ha hau Hausa|he heb Hebrew|hi hin Hindi|hr hrv Croatian
ht hat Haitian Creole|hu hun Hungarian|hy hye Armenian|id ind Indonesian|ig ibo Igbo|ii iii Nuosu|is isl Icelandic
it ita Italian|iu iku Inuktitut|ja jpn Japanese|jv jav Javanese|ka kat Georgian|kg kon Kongo|ki kik Kikuyu
kk kaz Kazakh|kl kal Kalaallisut|km khm Khmer|kn kan Kannada|ko kor Korean|ku kur,kmr Kurdish|kv kom Komi
kw cor Cornish|ky kir Kyrgyz|la lat Latin|lb ltz Luxembourgish|lg lug Ganda|li lim Limburgish|ln lin Lingala|lo lao Lao
lt lit Lithuanian|lv lav,lvs Latvian|mg mlg,plt Malagasy|mi mri Maori|mk mkd Macedonian|ml mal Malayalam
mn mon,khk Mongolian|mr mar Marathi|ms msa,zsm Malay|mt mlt Maltese|my mya Burmese|nb nob Norwegian Bokmål
ne nep,npi Nepali|nl nld Dutch|nn nno Norwegian Nynorsk|no nor Norwegian|nv nav Navajo|ny nya Chichewa|oc oci Occitan
om orm,gaz Oromo|or ori,ory Odia|os oss Ossetian|pa pan Punjabi|pl pol Polish|ps pus,pbt Pashto|pt por Portuguese
qu que,quy Quechua|rm roh Romansh|rn run Rundi|ro ron Romanian|ru rus Russian|rw kin Kinyarwanda|sa san Sanskrit
sc srd Sardinian|sd snd Sindhi|se sme Northern Sami|sg sag Sango|si sin Sinhala|sk slk Slovak|sl slv Slovenian
sm smo Samoan|sn sna Shona|so som Somali|sq sqi,als Albanian|sr srp Serbian|ss ssw Swati|st sot Southern Sotho
su sun Sundanese|sv swe Swedish|sw swa,swh Swahili|ta tam Tamil|te tel Telugu|tg tgk Tajik|th tha Thai|ti tir Tigrinya
tk tuk Turkmen|tl tgl Tagalog|tn tsn Tswana|to ton Tongan|tr tur Turkish|ts tso Tsonga|tt tat Tatar|tw twi Twi
ty tah Tahitian|ug uig Uyghur|uk ukr Ukrainian|ur urd Urdu|uz uzb,uzn Uzbek|ve ven Venda|vi vie Vietnamese
vo vol Volapük|wa wln Walloon|wo wol Wolof|xh xho Xhosa|yi yid,ydd Yiddish|yo yor Yoruba|za zha Zhuang
zh zho,cmn Chinese|zu zul Zulu|- yue Cantonese|- fil Filipino|- ceb Cebuano|- ckb Central Kurdish|- nso Northern Sotho
- ast Asturian|- bho Bhojpuri|- mai Maithili|- war Waray|- scn Sicilian|- vec Venetian|- fur Friulian|- szl Silesian
- ltg Latgalian|- lus Mizo|- min Minangkabau|- pap Papiamento|- sat Santali|- ilo Iloko|- kab Kabyle|- ban Balinese
- bug Buginese|- ace Acehnese|- bjn Banjar|- crh Crimean Tatar|- kea Kabuverdianu|- lmo Lombard|- pag Pangasinan
- mni Manipuri|- nus Nuer|- prs Dari|- azb South Azerbaijani|- ary Moroccan Arabic|- arz Egyptian Arabic
- apc Levantine Arabic|- ars Najdi Arabic|- acm Mesopotamian Arabic|- aeb Tunisian Arabic|- hne Chhattisgarhi
- mag Magahi|- awa Awadhi|- kas Kashmiri|- tpi Tok Pisin|- umb Umbundu|- kmb Kimbundu|- lua Luba-Kasai|- luo Luo
- bem Bemba|- tum Tumbuka|- sot Sesotho|- fon Fon|- mos Mossi|- dik Dinka|- dyu Dyula|- cjk Chokwe|- kac Jingpho
- kbp Kabiyè|- knc Kanuri|- taq Tamasheq|- tzm Tamazight|- shn Shan|- hsb Upper Sorbian|- dsb Lower Sorbian
"""


def _names() -> dict[str, str]:
    names: dict[str, str] = {}
    for entry in _NAMES.replace("\n", "|").strip("|").split("|"):
        short, longer, name = entry.split(" ", 2)
        for code in (short, *longer.split(",")):
            names.setdefault(code, name)
    del names["-"]
    return names


_BY_CODE = _names()


def language_name(code: str) -> str | None:
    """Return the English name of a language code, with or without its script and region. None for another word.

    Example:
        >>> language_name("zho_Hans"), language_name("de"), language_name("score")
        ('Chinese', 'German', None)
    """
    match = _CODE.fullmatch(code)
    return _BY_CODE.get(match[1]) if match else None
