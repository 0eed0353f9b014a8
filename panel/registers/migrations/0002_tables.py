"""The adequacy decisions of the Commission and the periods of the GDPR, each with its source.

When they were checked stays empty: somebody of the team looks them up and says so.
"""

from datetime import date

from django.db import migrations

DECISIONS = [
    # code, scope, from, until, decision
    ("AD", "", "2010-10-19", None, "2010/625/EU"),
    ("AR", "", "2003-06-30", None, "2003/490/EC"),
    ("BR", "", "2026-01-26", None, "(EU) 2026/179"),
    ("CA", "Commercial organisations under PIPEDA only", "2001-12-20", None, "2002/2/EC"),
    ("CH", "", "2000-07-26", None, "2000/518/EC"),
    ("FO", "", "2010-03-05", None, "2010/146/EU"),
    ("GB", "", "2021-06-28", "2031-12-27", "(EU) 2021/1772, renewed in December 2025"),
    ("GG", "", "2003-11-21", None, "2003/821/EC"),
    ("IL", "", "2011-01-31", None, "2011/61/EU"),
    ("IM", "", "2004-04-28", None, "2004/411/EC"),
    ("JE", "", "2008-05-08", None, "2008/393/EC"),
    ("JP", "Businesses under the APPI", "2019-01-23", None, "(EU) 2019/419"),
    ("KR", "", "2021-12-17", None, "(EU) 2022/254"),
    ("NZ", "", "2012-12-19", None, "2013/65/EU"),
    ("US", "Companies on the Data Privacy Framework's list only", "2023-07-10", None, "(EU) 2023/1795"),
    ("UY", "", "2012-08-21", None, "2012/484/EU"),
]
DEADLINES = [
    (
        "breach.notify",
        "Tell the authority of a breach",
        72,
        "hours",
        [48, 24, 6],
        "GDPR Art. 33(1), from becoming aware; Regulation 1182/71 Art. 3(4) moves no period in hours, so weekends count.",
    ),
    (
        "request.answer",
        "Answer a subject request",
        1,
        "months",
        [168, 72, 24],
        "GDPR Art. 12(3); EDPB Guidelines 01/2022, section 5.3; Regulation 1182/71 Art. 3(4): not on a weekend or holiday.",
    ),
    (
        "request.extend",
        "Extend a subject request by at most",
        2,
        "months",
        [],
        "GDPR Art. 12(3): the person is told within the first month, with the reason.",
    ),
]


def fill(apps, schema_editor):
    decisions = apps.get_model("registers", "AdequacyDecision")
    for code, scope, start, end, decision in DECISIONS:
        decisions.objects.create(
            code=code,
            scope=scope,
            valid_from=date.fromisoformat(start),
            valid_until=end and date.fromisoformat(end),
            source=f"Commission decision {decision}",
        )
    deadlines = apps.get_model("registers", "Deadline")
    for key, title, amount, unit, reminders, source in DEADLINES:
        deadlines.objects.create(
            key=key,
            title=title,
            amount=amount,
            unit=unit,
            reminders=reminders,
            source=source,
        )


class Migration(migrations.Migration):
    dependencies = [("registers", "0001_initial")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
