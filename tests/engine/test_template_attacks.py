"""Server-side template injection: known ways out of a template engine, none of which works."""

import pytest

from autoglm.engine.template import TemplateError, render

PAYLOADS = r"""
{{ ''.__class__.__mro__[1].__subclasses__() }}
{{ ''.__class__.__base__.__subclasses__() }}
{{ [].__class__.__base__.__subclasses__()[40]('/etc/passwd').read() }}
{{ {}.__class__.__mro__ }}
{{ ().__class__.__bases__[0].__subclasses__() }}
{{ (1).__class__.__base__ }}
{{ messages.__class__.__base__.__subclasses__()[0] }}
{{ messages[0].__init__.__globals__ }}
{{ messages[0].__class__ }}
{{ messages[0].content.__class__ }}
{{ messages[0].content.__init__.__globals__['os'] }}
{{ messages[0]['__class__'] }}
{{ messages[0].content.format.__globals__ }}
{{ '{0.__class__}'.format(messages) }}
{{ '%s'.__mod__(messages) }}
{{ self._TemplateReference__context }}
{{ self.__init__.__globals__ }}
{{ self.__dict__ }}
{{ cycler.__init__.__globals__.os.popen('id').read() }}
{{ joiner.__init__.__globals__.os.popen('id').read() }}
{{ namespace.__init__.__globals__.os.popen('id').read() }}
{{ namespace(a=1).__class__ }}
{{ lipsum.__globals__['os'].popen('id').read() }}
{{ lipsum() }}
{{ url_for.__globals__ }}
{{ get_flashed_messages.__globals__ }}
{{ config.items() }}
{{ config.__class__.__init__.__globals__['os'] }}
{{ request.application.__globals__.__builtins__.__import__('os').popen('id').read() }}
{{ request['application']['__globals__'] }}
{{ raise_exception.__globals__['datetime'] }}
{{ raise_exception.__code__ }}
{{ raise_exception.__class__ }}
{{ strftime_now.__globals__['re'] }}
{{ strftime_now.__self__ }}
{{ (strftime_now | attr('__globals__')) }}
{{ (''|attr('__class__')) }}
{{ (''|attr('\x5f\x5fclass\x5f\x5f')) }}
{{ ''['__class__'] }}
{{ ''['\x5f\x5fclass\x5f\x5f'] }}
{{ messages | map(attribute='__class__') | list }}
{{ messages | map('attr', '__class__') | list }}
{{ messages | selectattr('__class__') | list }}
{{ messages | sort(attribute='__class__.__name__') | map(attribute='__init__') | list }}
{{ dict.__base__ }}
{{ range.__class__ }}
{{ loop.__class__ }}
{{ caller.__globals__ }}
{{ __import__('os').system('id') }}
{{ open('/etc/passwd').read() }}
{{ eval('1') }}
{{ exec('1') }}
{{ os.system('id') }}
{% include '/etc/passwd' %}
{% include ['/etc/passwd', '/etc/hosts'] %}
{% import 'os' as os %}{{ os.system('id') }}
{% from 'os' import system %}{{ system('id') }}
{% extends '/etc/passwd' %}
{% set x = ''.__class__ %}{{ x }}
{% for c in ''.__class__.__mro__ %}{{ c }}{% endfor %}
{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}
{% do messages.append(1) %}
{% python %}import os{% endpython %}
""".strip().splitlines()

MESSAGES = [{"role": "user", "content": "x"}]
NOTHING = {"", "undefined", "None"}


def test_there_are_at_least_fifty_payloads() -> None:
    assert len(set(PAYLOADS)) >= 50


@pytest.mark.parametrize("template", PAYLOADS)
def test_payload_gives_nothing_or_a_typed_error(template: str) -> None:
    try:
        text = render(template, {"messages": MESSAGES})
    except TemplateError:
        return
    assert text.strip("[](), ") in NOTHING


def test_the_same_check_notices_a_template_that_reads_a_value() -> None:
    assert render("{{ messages[0].content }}", {"messages": MESSAGES}) not in NOTHING
